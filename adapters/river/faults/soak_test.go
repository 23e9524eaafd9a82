//go:build unix

package faults_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// A soak injects faults by chance, several at a time, and knows afterwards when
// there was one.
type soak struct {
	*cluster
	random    *rand.Rand
	jobs      []job
	slots     []*slot
	serverUp  bool
	recovery  []recovery // the ends of faults that last
	outages   []outage
	deleted   map[string]bool // "name tick" of rows that were deleted before they ran
	faultSeen map[string]int
}

// A slot is the place of a process, with its network; the process in it may be
// replaced.
type slot struct {
	*node
	network *proxy
	busy    bool // a fault befalls it
}

type recovery struct {
	at  time.Time
	end func()
}

type outage struct {
	what     string
	from, to time.Time // to is zero as long as it lasts
}

const (
	soakProcesses = 3
	// aftermath is how long after a fault its effects may still show: the fail-over,
	// and the backing off of a process that asked for the database in vain.
	aftermath = failOver + 20*time.Second
)

func TestSoak(t *testing.T) {
	t.Parallel()
	if *soakFlag == 0 {
		t.Skip("takes as long as it is told: run with -soak 10m")
	}
	skipNative(t)
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64N(1_000_000)
	}
	fmt.Printf("soak: %s, seed %d\n", *soakFlag, seed)
	s := &soak{
		cluster:  newCluster(t, newServer(t), false),
		random:   rand.New(rand.NewPCG(seed, 0)),
		serverUp: true, deleted: map[string]bool{}, faultSeen: map[string]int{},
		jobs: []job{
			{Name: "soak.once-1s", Every: time.Second},
			{Name: "soak.all-2s", Every: 2 * time.Second, All: true},
			{Name: "soak.once-5s", Every: 5 * time.Second},
			{Name: "soak.all-5s", Every: 5 * time.Second, All: true},
		},
	}
	for range soakProcesses {
		network := newProxy(t, s.server.socket(t), s.jobs)
		s.slots = append(s.slots, &slot{network: network, node: s.spawn(s.jobs, network)})
	}
	for _, slot := range s.slots {
		s.awaitStart(slot.node)
	}
	s.leader()
	from := s.now()
	s.inject(time.Now().Add(*soakFlag))
	to := s.awaitCalm()

	fmt.Printf("soak: seed %d, %d faults injected: %v\n", seed, len(s.outages), s.faultSeen)
	var all []outcome
	for _, j := range s.jobs {
		o := s.measure(j, from, to)
		o.fault = j.Name
		all = append(all, o)
	}
	fmt.Print(table(all))
	s.requireNoneDoubled()
	for _, j := range s.jobs {
		s.requireExplained(j, from, to)
		require.Positive(t, scalar[int](t, s.pool, `SELECT count(*) FROM river.river_job
			WHERE kind = $1 AND state IN ('available', 'scheduled') AND (args->>'tick')::timestamptz > now() - interval '1 second'`, j.Name),
			"%s has a live successor", j.Name)
	}
}

// inject brings faults about, one after about 14 seconds, and sees each to its end.
func (s *soak) inject(end time.Time) {
	next := time.Now()
	for next.Before(end) || len(s.recovery) > 0 {
		slices.SortFunc(s.recovery, func(a, b recovery) int { return a.at.Compare(b.at) })
		if len(s.recovery) > 0 && (s.recovery[0].at.Before(next) || !next.Before(end)) {
			r := s.recovery[0]
			s.recovery = s.recovery[1:]
			pass(s.t, time.Until(r.at))
			r.end()
			continue
		}
		pass(s.t, time.Until(next))
		s.oneFault()
		next = time.Now().Add(s.between(10*time.Second, 18*time.Second))
	}
}

func (s *soak) between(low, high time.Duration) time.Duration {
	return low + time.Duration(s.random.Int64N(int64(high-low)))
}

// oneFault chooses among what is possible now.
func (s *soak) oneFault() {
	var up []*slot
	for _, slot := range s.slots {
		if !slot.busy {
			up = append(up, slot)
		}
	}
	s.random.Shuffle(len(up), func(i, j int) { up[i], up[j] = up[j], up[i] })
	if s.serverUp && s.random.IntN(2) == 0 { // the leader is worth more than its share
		leader := s.tryLeader()
		slices.SortStableFunc(up, func(a, b *slot) int {
			return map[bool]int{true: 0, false: 1}[a.node == leader] - map[bool]int{true: 0, false: 1}[b.node == leader]
		})
	}
	var possible []func()
	if len(up) > 0 {
		possible = append(possible,
			func() { s.kill(up[:1]) }, func() { s.kill(up[:1]) }, func() { s.kill(up) },
			func() { s.terminate(up[0]) }, func() { s.freeze(up[0]) }, func() { s.darken(up[0]) }, func() { s.cut(up[0]) })
	}
	if s.serverUp {
		possible = append(possible, s.restartPostgres, s.takePostgresAway, s.deleteRow, s.resign)
	}
	if len(possible) > 0 {
		possible[s.random.IntN(len(possible))]()
	}
}

// begin notes the begin of a fault, and returns what notes its end.
func (s *soak) begin(what, detail string) (ended func()) {
	s.t.Logf("%s  %s %s", time.Now().UTC().Format("15:04:05.000"), what, detail)
	s.faultSeen[what]++
	i := len(s.outages)
	s.outages = append(s.outages, outage{what: what, from: time.Now()})
	return func() { s.outages[i].to = time.Now() }
}

func (s *soak) after(d time.Duration, end func()) {
	s.recovery = append(s.recovery, recovery{time.Now().Add(d), end})
}

func (s *soak) kill(victims []*slot) {
	victims = slices.Clone(victims)
	length := s.between(500*time.Millisecond, 20*time.Second)
	ended := s.begin(fmt.Sprintf("SIGKILL of %d", len(victims)), fmt.Sprintf("%s for %s", victims[0].id, length))
	for _, slot := range victims {
		slot.busy = true
		slot.kill()
	}
	s.after(length, func() {
		for _, slot := range victims {
			slot.node = s.spawn(s.jobs, slot.network)
			slot.busy = false
		}
		ended()
	})
}

func (s *soak) terminate(slot *slot) {
	length := s.between(500*time.Millisecond, 10*time.Second)
	ended := s.begin("SIGTERM", fmt.Sprintf("%s for %s", slot.id, length))
	slot.busy = true
	slot.node.terminate()
	s.after(length, func() {
		slot.node, slot.busy = s.spawn(s.jobs, slot.network), false
		ended()
	})
}

func (s *soak) freeze(slot *slot) {
	length := s.between(2*time.Second, 35*time.Second)
	ended := s.begin("SIGSTOP", fmt.Sprintf("%s for %s", slot.id, length))
	slot.busy = true
	slot.node.freeze()
	s.after(length, func() {
		slot.thaw()
		slot.busy = false
		ended()
	})
}

func (s *soak) darken(slot *slot) {
	length := s.between(5*time.Second, 40*time.Second)
	ended := s.begin("half-open", fmt.Sprintf("%s for %s", slot.id, length))
	slot.busy = true
	slot.network.goDark()
	s.after(length, func() {
		slot.network.reset()
		slot.busy = false
		ended()
	})
}

func (s *soak) cut(slot *slot) {
	length := s.between(5*time.Second, 15*time.Second)
	ended := s.begin("ambiguous commits", fmt.Sprintf("%s for %s", slot.id, length))
	slot.busy = true
	// The network's own chance: it is asked from other goroutines.
	chance := rand.New(rand.NewPCG(s.random.Uint64(), 0))
	fates := []fate{cut, passes, passes, answerLost, passes}
	slot.network.setHook(func(at moment) fate {
		if at == storingInTx {
			return passes
		}
		return fates[chance.IntN(len(fates))]
	})
	s.after(length, func() {
		slot.network.setHook(nil)
		slot.busy = false
		ended()
	})
}

func (s *soak) restartPostgres() {
	ended := s.begin("Postgres restarted", "")
	require.NoError(s.t, s.server.Kill())
	require.NoError(s.t, s.server.Restart(s.t.Context()))
	ended()
}

func (s *soak) takePostgresAway() {
	length := s.between(2*time.Second, 25*time.Second)
	ended := s.begin("Postgres away", "for "+length.String())
	s.serverUp = false
	require.NoError(s.t, s.server.Kill())
	s.after(length, func() {
		require.NoError(s.t, s.server.Restart(s.t.Context()))
		s.serverUp = true
		ended()
	})
}

func (s *soak) deleteRow() {
	name := s.jobs[s.random.IntN(len(s.jobs))].Name
	ended := s.begin("live row deleted", name)
	defer ended()
	rows, err := s.pool.Query(s.t.Context(), `DELETE FROM river.river_job
		WHERE kind = $1 AND state IN ('available', 'scheduled') RETURNING (args->>'tick')::timestamptz`, name)
	require.NoError(s.t, err)
	ticks, err := pgx.CollectRows(rows, pgx.RowTo[time.Time])
	require.NoError(s.t, err)
	for _, tick := range ticks {
		s.deleted[name+" "+tick.UTC().String()] = true
	}
}

func (s *soak) resign() {
	ended := s.begin("leader resigns", "")
	s.requestResign()
	ended()
}

// awaitCalm waits until every schedule is on time again and nothing is left to
// rescue, and returns up to when that holds.
func (s *soak) awaitCalm() time.Time {
	for _, slot := range s.slots {
		s.awaitStart(slot.node)
	}
	s.leader()
	const watched = 15 * time.Second
	var to time.Time
	until(s.t, 3*time.Minute, "on time again", func() bool {
		pass(s.t, time.Second)
		to = s.now().Add(-lateAfter)
		for _, j := range s.jobs {
			if o := s.measure(j, to.Add(-watched), to); o.lost > 0 || o.late > 0 {
				return false
			}
		}
		return true
	})
	s.settle(to)
	return to
}

// requireExplained asks of each tick that is missing, and of each late run, which
// fault it is due to; and of each gap for the late run that stands for it.
func (s *soak) requireExplained(j job, from, to time.Time) {
	s.t.Helper()
	rows, err := s.pool.Query(s.t.Context(), `
		SELECT due, min(started), max(started)
		FROM (SELECT id, (args->>'tick')::timestamptz AS due FROM river.river_job WHERE kind = $1) AS stored LEFT JOIN runs ON job = id
		WHERE due >= $2 AND due < $3 GROUP BY due ORDER BY due`, j.Name, from, to)
	require.NoError(s.t, err)
	var (
		tick, prev      time.Time
		first, last     *time.Time
		prevLast        time.Time
		problems        []string
		gaps, lateRuns  int
		worst           time.Duration
		complain        = func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
		formatTick      = func(t time.Time) string { return t.UTC().Format("15:04:05") }
		onlyDeletedOnes = func(from, to time.Time) bool {
			for t := from.Add(j.Every); t.Before(to); t = t.Add(j.Every) {
				if !s.deleted[j.Name+" "+t.UTC().String()] {
					return false
				}
			}
			return true
		}
	)
	_, err = pgx.ForEachRow(rows, []any{&tick, &first, &last}, func() error {
		if first == nil {
			complain("tick %s never ran", formatTick(tick))
			return nil
		}
		if late := first.Sub(tick); late > lateAfter {
			lateRuns++
			worst = max(worst, late)
			if !s.faultBetween(tick, *first) {
				complain("tick %s ran %s late, without a fault", formatTick(tick), late)
			}
		}
		if !prev.IsZero() && tick.Sub(prev) > j.Every {
			gaps++
			switch {
			case !s.faultBetween(prev, tick):
				complain("ticks between %s and %s are missing, without a fault", formatTick(prev), formatTick(tick))
			case onlyDeletedOnes(prev, tick):
			case j.All:
				complain("ticks between %s and %s are missing in spite of CatchUp(All)", formatTick(prev), formatTick(tick))
			case prevLast.Before(prev.Add(j.Every)):
				complain("ticks between %s and %s are missing, and that of %s did not run late for them",
					formatTick(prev), formatTick(tick), formatTick(prev))
			}
		}
		prev, prevLast = tick, *last
		return nil
	})
	require.NoError(s.t, err)
	s.t.Logf("%s: %d gaps, %d late runs, latest %s", j.Name, gaps, lateRuns, worst)
	if len(problems) > 0 {
		s.t.Errorf("%s:\n%s", j.Name, strings.Join(problems, "\n"))
	}
}

// faultBetween reports whether a fault lasted, or had ended shortly, at some time
// between two.
func (s *soak) faultBetween(from, to time.Time) bool {
	return slices.ContainsFunc(s.outages, func(o outage) bool {
		return o.from.Before(to) && o.to.Add(aftermath).After(from)
	})
}
