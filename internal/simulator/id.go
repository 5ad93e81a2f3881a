package simulator

import (
	"math/rand/v2"
	"time"
)

// idSource makes ids in the documented style: a prefix and 26 characters of
// lower case Crockford base32, ten of time and sixteen drawn. It is guarded by
// Server.mu.
type idSource struct {
	random *rand.Rand
}

const crockford = "0123456789abcdefghjkmnpqrstvwxyz"

func newIDSource(seed uint64) idSource {
	return idSource{rand.New(rand.NewPCG(seed, 0x686f73747570))}
}

func (s idSource) next(prefix string, now time.Time) string {
	id := make([]byte, len(prefix), len(prefix)+26)
	copy(id, prefix)
	ms := uint64(now.UnixMilli())
	for shift := 45; shift >= 0; shift -= 5 {
		id = append(id, crockford[ms>>shift&31])
	}
	high, low := s.random.Uint64(), s.random.Uint64()
	for shift := range 8 {
		id = append(id, crockford[high>>(5*shift)&31], crockford[low>>(5*shift)&31])
	}
	return string(id)
}
