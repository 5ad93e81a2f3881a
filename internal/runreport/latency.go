package runreport

import (
	"fmt"
	"slices"
	"time"
)

// latency is a row of the table.
type latency struct {
	Class              string
	Count              int
	P50, P90, P99, Max string
}

// latencies are the rows of the classes that have any, and of all.
func latencies(orders []Order, classes []string) []latency {
	var all []time.Duration
	by := make(map[string][]time.Duration)
	for _, o := range orders {
		if o.Class != "" && o.Took >= 0 {
			all = append(all, o.Took)
			by[o.Class] = append(by[o.Class], o.Took)
		}
	}
	var rows []latency
	row := func(class string, took []time.Duration) {
		slices.Sort(took)
		rows = append(rows, latency{
			Class: class, Count: len(took), P50: length(percentile(took, 50)), P90: length(percentile(took, 90)),
			P99: length(percentile(took, 99)), Max: length(took[len(took)-1]),
		})
	}
	for _, class := range classes {
		if len(by[class]) > 0 {
			row(class, by[class])
		}
	}
	if len(all) > 0 {
		row("all", all)
	}
	return rows
}

// percentile is the smallest of the sorted values that p percent of them do
// not exceed: one that was measured, nothing in between.
func percentile(sorted []time.Duration, p int) time.Duration {
	rank := (len(sorted)*p + 99) / 100
	return sorted[max(rank, 1)-1]
}

// bucket is a bar of the histogram.
type bucket struct {
	Range string
	Count int
	// Share is of the fullest bucket, in percent.
	Share string
}

// bounds are the upper ones of the histogram's buckets.
var bounds = []time.Duration{
	time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond,
	10 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 20 * time.Second, 30 * time.Second,
	time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute,
}

// histogram counts by length, without the empty buckets at both ends. Empty
// ones in a row are one.
func histogram(orders []Order) []bucket {
	counts := make([]int, len(bounds)+1)
	for _, o := range orders {
		if o.Class != "" && o.Took >= 0 {
			at, _ := slices.BinarySearch(bounds, o.Took)
			counts[at]++
		}
	}
	first := slices.IndexFunc(counts, func(n int) bool { return n > 0 })
	if first < 0 {
		return nil
	}
	fullest := slices.Max(counts)
	var all []bucket
	for i := first; i < len(counts); i++ {
		if i > first && counts[i] == 0 && all[len(all)-1].Count == 0 {
			all = all[:len(all)-1]
		}
		all = append(all, bucket{Range: between(i), Count: counts[i], Share: percent(float64(counts[i]) / float64(fullest))})
	}
	if last := len(all) - 1; all[last].Count == 0 {
		all = all[:last]
	}
	return all
}

func between(i int) string {
	switch i {
	case 0:
		return "up to " + whole(bounds[0])
	case len(bounds):
		return "over " + whole(bounds[i-1])
	default:
		return "up to " + whole(bounds[i])
	}
}

// whole is a duration of one unit.
func whole(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	default:
		return fmt.Sprintf("%d min", d/time.Minute)
	}
}

// length is a duration with three digits or so.
func length(d time.Duration) string {
	switch {
	case d < 0:
		return "–"
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	default:
		return d.Round(time.Second).String()
	}
}
