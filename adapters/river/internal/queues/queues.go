// Package queues decides which of River's queues a job belongs in, and how many workers each queue has in a process.
//
// A job with worker slots of its own has a queue of its own. The other transactional jobs share one, which the
// application's pool limits. All others are in the main queue. Processes with the same main queue agree on the
// names, whatever their version.
package queues

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"

	"github.com/everytick/everytick/jobs/provider"
)

// maxBytes is the most that River allows in a queue's name.
const maxBytes = 64

var (
	valid     = regexp.MustCompile(`^[a-z0-9_-]{1,64}$`)
	notInName = regexp.MustCompile(`[^a-z0-9]+`)
)

// Valid reports whether a queue may have this name.
func Valid(name string) bool { return valid.MatchString(name) }

// Queues are the queues of a service. Create them with [New].
type Queues struct {
	// Tx is that of transactional jobs without worker slots of their own.
	Main, Tx string
}

// New returns the queues of a service whose main queue has a valid name.
func New(main string) Queues {
	tx := main + "-tx"
	if len(tx) > maxBytes {
		tx = named(tx)
	}
	return Queues{Main: main, Tx: tx}
}

// Of returns the queue of a job.
func (q Queues) Of(d *provider.Definition) string {
	switch {
	case d.Concurrency > 0:
		return named(d.Name)
	case d.Transactional:
		return q.Tx
	default:
		return q.Main
	}
}

// Homes returns the names of jobs, and the queue of each.
func (q Queues) Homes(defs []*provider.Definition) (names, queues []string) {
	for _, d := range defs {
		names, queues = append(names, d.Name), append(queues, q.Of(d))
	}
	return names, queues
}

// Workers returns the workers of a process with these jobs, all of them free. most is how many the main queue has. It
// fails if a pool of that many connections is too small for the transactional jobs, each of whose runs occupies one.
func (q Queues) Workers(defs []*provider.Definition, most, conns int) (Workers, error) {
	transactional, err := provider.TransactionalWorkers(defs, conns, most)
	if err != nil {
		return nil, err
	}
	w := Workers{q.Main: {N: most}}
	if transactional > 0 {
		w[q.Tx] = &Slots{N: transactional}
	}
	for _, d := range defs {
		if d.Concurrency > 0 {
			w[q.Of(d)] = &Slots{N: d.Concurrency}
		}
	}
	return w, nil
}

// named returns a valid name of a queue for any text. River's names allow neither dots nor 100 bytes, so a hash keeps
// them apart.
func named(text string) string {
	readable := strings.Trim(notInName.ReplaceAllString(text, "-"), "-")
	sum := sha256.Sum256([]byte(text))
	return strings.TrimRight(readable[:min(len(readable), 48)], "-") + "-" + hex.EncodeToString(sum[:4])
}
