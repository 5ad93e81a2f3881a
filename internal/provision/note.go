package provision

import (
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// NoteKind is what a note is about.
type NoteKind string

// Every kind of note.
const (
	// NoteWaits: the request waits; Detail is one of the Wait words.
	NoteWaits NoteKind = "waits"
	// NoteLooked: the account was searched for a server that a lost answer may
	// have bought.
	NoteLooked NoteKind = "looked-up"
	// NoteAbsent: enough looks found nothing.
	NoteAbsent NoteKind = "absence-proved"
	// NoteAdopted: a look found the server.
	NoteAdopted NoteKind = "adopted"
	// NoteHeld: the request went before a person.
	NoteHeld NoteKind = "held"
	// NoteDecided: a person decided.
	NoteDecided NoteKind = "decided"
	// NoteDeadline: the deadline ended it.
	NoteDeadline NoteKind = "deadline"
)

// Note is something that happened to a request beside its attempts, kept for
// people: nothing is ever decided by it. A request that goes straight to its
// server has none.
type Note struct {
	// Time is when it happened, by the clock of whoever wrote it; Last when it
	// last did and Times how often, where that was more than once in a row.
	Time  time.Time `json:"time"`
	Times int       `json:"times,omitempty"`
	Last  time.Time `json:"last,omitzero"`
	What  NoteKind  `json:"what"`
	// Detail says more, in one line. The same What and Detail in a row are one note.
	Detail string `json:"detail,omitempty"`
	// Cause is the newest error behind it, Until when the newest wait ends, as
	// far as that is known.
	Cause string    `json:"cause,omitempty"`
	Until time.Time `json:"until,omitzero"`

	// Newer is what a newer version wrote beside this; the ledger writes it back.
	Newer string `json:"-"`
}

// MaxNotes bounds a record. Of more notes the first and the newest are kept;
// waits go before others, and decisions of people last.
const MaxNotes = 64

// maxNoteText bounds the texts of a note, in bytes.
const maxNoteText = 512

// note takes something down, to be stored with whatever the record is stored
// for. The notes are copied: earlier work on the record may still read them.
func (r *Record) note(n Note) {
	n.Detail, n.Cause = clipped(n.Detail), clipped(n.Cause)
	notes := slices.Clone(r.Notes)
	if last := len(notes) - 1; last >= 0 && notes[last].What == n.What && notes[last].Detail == n.Detail {
		at := &notes[last]
		at.Times, at.Last = max(at.Times, 1)+1, n.Time
		at.Cause, at.Until = n.Cause, n.Until
		r.Notes = notes
		return
	}
	if len(notes) >= MaxNotes {
		drop := 1 + tellsLeast(notes[1:])
		notes = slices.Delete(notes, drop, drop+1)
	}
	notes = append(notes, n)
	r.Notes = notes
}

// tellsLeast is the index of the note that tells least.
func tellsLeast(notes []Note) int {
	if wait := slices.IndexFunc(notes, func(n Note) bool { return n.What == NoteWaits }); wait >= 0 {
		return wait
	}
	return max(slices.IndexFunc(notes, func(n Note) bool { return n.What != NoteDecided }), 0)
}

// waits notes that the request waits, as the record says, for what is known to
// be behind it. That a look is followed by another one needs no note.
func (r *Record) waits(now time.Time, cause error) {
	if r.WaitReason == WaitLookup {
		return
	}
	n := Note{Time: now, What: NoteWaits, Detail: r.WaitReason, Until: r.NotBefore}
	if cause != nil {
		n.Cause = cause.Error()
	}
	r.note(n)
}

// The details of NoteLooked.
const (
	lookFoundNothing  = "no server"
	lookProvedNothing = "nothing is proved by a look that failed"
)

// clipped is a text of at most maxNoteText bytes.
func clipped(s string) string {
	const more = "…"
	if len(s) > maxNoteText {
		s = s[:maxNoteText-len(more)]
		for !utf8.ValidString(s) && len(s) > maxNoteText-len(more)-utf8.UTFMax {
			s = s[:len(s)-1]
		}
		s += more
	}
	return strings.ToValidUTF8(s, string(utf8.RuneError))
}
