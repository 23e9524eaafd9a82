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

// A soak injects random faults, several at a time, and records when each began and ended.
type soak struct {
	*cluster
	random    *rand.Rand
	jobs      []job
	slots     []*slot
	serverUp  bool
	recovery  []recovery // how present faults end
	outages   []outage
	deleted   map[string]bool // "name tick" of jobs deleted before they had ended
	faultSeen map[string]int
}

// A slot is a network and the process that uses it, which may be replaced.
type slot struct {
	*node
	network *proxy
	busy    bool // during a fault
}

type recovery struct {
	at  time.Time
	end func()
}

type outage struct {
	what     string
	from, to time.Time // to is zero during the fault
}

const (
	soakProcesses = 3
	// aftermath is how long after a fault its effects may still show: the fail-over, and the back-off of a process that
	// could not reach the database.
	aftermath = failOver + 20*time.Second
)

func TestSoak(t *testing.T) {
	t.Parallel()
	if *soakFlag == 0 {
		t.Skip("takes as long as -soak says: run with -soak 10m")
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
		require.Positive(t, scalar[int](t, s.pool, `SELECT count(*) FROM river.everytick_schedule
			WHERE name = $1 AND next_tick > now() - interval '1 second'`, j.Name), "the schedule of %s continues", j.Name)
	}
	s.requireNoLeaks(s.jobs, *soakFlag)
}

// inject injects a fault about every 14 seconds until end, and ends each.
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

// oneFault injects a random fault out of those that are possible now.
func (s *soak) oneFault() {
	var up []*slot
	for _, slot := range s.slots {
		if !slot.busy {
			up = append(up, slot)
		}
	}
	s.random.Shuffle(len(up), func(i, j int) { up[i], up[j] = up[j], up[i] })
	if s.serverUp && s.random.IntN(2) == 0 { // the leader gets more than its share
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
		possible = append(possible, s.restartPostgres, s.takePostgresDown, s.truncate, s.resign)
		if len(up) > 0 { // a process knows what the row contained
			possible = append(possible, s.deleteSchedule)
		}
	}
	if len(possible) > 0 {
		possible[s.random.IntN(len(possible))]()
	}
}

// begin records the beginning of a fault, and returns a function that records its end.
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
	// The hook has its own source, because other goroutines call it.
	random := rand.New(rand.NewPCG(s.random.Uint64(), 0))
	fates := []fate{cut, passes, passes, answerLost, passes}
	slot.network.setHook(func(at moment) fate {
		if at != committing && at != otherCommit {
			return passes
		}
		return fates[random.IntN(len(fates))]
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

func (s *soak) takePostgresDown() {
	length := s.between(2*time.Second, 25*time.Second)
	ended := s.begin("Postgres down", "for "+length.String())
	s.serverUp = false
	require.NoError(s.t, s.server.Kill())
	s.after(length, func() {
		require.NoError(s.t, s.server.Restart(s.t.Context()))
		s.serverUp = true
		ended()
	})
}

func (s *soak) deleteSchedule() {
	name := s.jobs[s.random.IntN(len(s.jobs))].Name
	defer s.begin("schedule deleted", name)()
	execSQL(s.t, s.pool, `DELETE FROM river.everytick_schedule WHERE name = $1`, name)
}

// truncate deletes all jobs, including some that may not have run yet.
func (s *soak) truncate() {
	defer s.begin("jobs truncated", "")()
	err := pgx.BeginFunc(s.t.Context(), s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(s.t.Context(), `LOCK TABLE river.river_job`); err != nil {
			return err
		}
		rows, err := tx.Query(s.t.Context(), `SELECT name, tick FROM ticks WHERE finalized_at IS NULL`)
		if err != nil {
			return err
		}
		var (
			name string
			tick time.Time
		)
		_, err = pgx.ForEachRow(rows, []any{&name, &tick}, func() error {
			s.deleted[name+" "+tick.UTC().String()] = true
			return nil
		})
		if err != nil {
			return err
		}
		_, err = tx.Exec(s.t.Context(), `TRUNCATE river.river_job`)
		return err
	})
	require.NoError(s.t, err)
}

func (s *soak) resign() {
	ended := s.begin("leader resigns", "")
	s.requestResign()
	ended()
}

// awaitCalm waits until every schedule is on time and no job is left to rescue, and returns the instant up to which
// that holds.
func (s *soak) awaitCalm() time.Time {
	for _, slot := range s.slots {
		s.awaitStart(slot.node)
	}
	s.leader()
	const watched = 15 * time.Second
	var to time.Time
	until(s.t, 3*time.Minute, "ticks run on time again", func() bool {
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

// requireExplained checks that a run stands for each tick, and that a fault explains each late run.
func (s *soak) requireExplained(j job, from, to time.Time) {
	s.t.Helper()
	rows, err := s.pool.Query(s.t.Context(), `
		SELECT due, run.tick = due, run.started
		FROM (
			SELECT to_timestamp(n * $4::float8) AS due
			FROM generate_series(ceil(extract(epoch FROM $2::timestamptz) / $4)::bigint,
				ceil(extract(epoch FROM $3::timestamptz) / $4)::bigint - 1) AS n
		) AS due LEFT JOIN LATERAL (
			SELECT tick, started FROM runs
			WHERE name = $1 AND tick >= due AND tick - missed * make_interval(secs => $4) <= due
			ORDER BY started LIMIT 1
		) AS run ON true ORDER BY due`, j.Name, from, to, j.Every.Seconds())
	require.NoError(s.t, err)
	var (
		tick     time.Time
		own      *bool
		started  *time.Time
		problems []string
		without  int // ticks without a run of their own
		worst    time.Duration
		complain = func(format string, args ...any) {
			problems = append(problems, "tick "+tick.UTC().Format("15:04:05")+" "+fmt.Sprintf(format, args...))
		}
	)
	_, err = pgx.ForEachRow(rows, []any{&tick, &own, &started}, func() error {
		if started == nil {
			if !s.deleted[j.Name+" "+tick.UTC().String()] {
				complain("never ran, and no run stands for it")
			}
			return nil
		}
		if !*own {
			without++
			if j.All {
				complain("has no run of its own despite CatchUpAll")
			}
		}
		late := started.Sub(tick)
		worst = max(worst, late)
		if late > lateAfter && !s.faultBetween(tick, *started) {
			complain("ran %s late without a fault", late)
		}
		return nil
	})
	require.NoError(s.t, err)
	s.t.Logf("%s: %d ticks without a run of their own, latest %s", j.Name, without, worst)
	if len(problems) > 0 {
		s.t.Errorf("%s:\n%s", j.Name, strings.Join(problems, "\n"))
	}
}

// faultBetween reports whether there was a fault or its aftermath at some time between from and to.
func (s *soak) faultBetween(from, to time.Time) bool {
	return slices.ContainsFunc(s.outages, func(o outage) bool {
		return o.from.Before(to) && o.to.Add(aftermath).After(from)
	})
}
