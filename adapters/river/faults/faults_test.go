//go:build unix

package faults_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var quiet = slog.New(slog.DiscardHandler)

// A scenario is a fault that hits processes while they run schedules.
type scenario struct {
	fault string
	// services are the jobs of each service; two processes run each.
	services [][]job
	// ownServer gives the scenario its own Postgres, which it may stop.
	ownServer bool
	// proxied gives each process its own network, which the scenario may break.
	proxied bool
	// clockAhead is how far the database's clock is ahead of the processes'.
	clockAhead time.Duration
	// notNative is set if the fault does not apply to River's own periodic jobs.
	notNative bool
	inject    func(c *cluster)
	promise   promise
	// within limits how late a tick starts; 0 means no limit.
	within time.Duration
	// params are added to the processes' connection strings.
	params map[string]string
	// alone keeps other scenarios from running at the same time.
	alone bool
	// whole replaces all of the above. It does not apply to native jobs.
	whole func(t *testing.T, fault string) []outcome
}

// promise is what holds for everytick's ticks, besides that none is doubled.
type promise int

const (
	nothingLost promise = iota
	oneLateRun          // one late run stands for all missed ticks, and the next ones are on time
	lateRuns            // late runs stand for all missed ticks, and the next ones are on time
)

// every returns one service with a job for each interval.
func every(intervals ...time.Duration) [][]job { return [][]job{jobsOf("tick", intervals...)} }

func jobsOf(service string, intervals ...time.Duration) []job {
	all := make([]job, len(intervals))
	for i, d := range intervals {
		all[i] = job{Name: fmt.Sprintf("%s.every-%s", service, d), Every: d}
	}
	return all
}

// held returns a service with a job whose handler takes most of its interval.
func held(service string) []job {
	return []job{{Name: service + ".held", Every: 2 * time.Second, Hold: 1500 * time.Millisecond, Timeout: 2 * time.Second}}
}

// many returns one service with 10,000 jobs that are due at the same instants.
func many(every time.Duration) [][]job {
	return [][]job{{{Name: "many.tick", Every: every, Count: 10_000}}}
}

// cheap spares 10,000 handlers the wait for the disk. It is for scenarios that do not stop the database.
var cheap = map[string]string{"synchronous_commit": "off", "pool_max_conns": "4"}

const (
	// advanceBy is how soon another process has advanced the rows of a process that was lost in the middle of an
	// advance: the server keeps them locked for 4 s, and others check every 2 s. manyBy adds time for 10,000 runs.
	advanceBy = 8 * time.Second
	manyBy    = rowsHeld - 2*time.Second
)

const (
	processesPerService = 2
	// failOver is how long after a crash of the leader another process leads: the lease of 15 s, then up to 6 s to the
	// next election.
	failOver = 22 * time.Second
)

// run injects the fault, checks the promise and returns the outcome of each job.
func (sc scenario) run(t *testing.T) []outcome {
	if provider == native && (sc.notNative || sc.whole != nil) {
		t.Skip("does not apply to native jobs")
	}
	if sc.whole != nil {
		return sc.whole(t, sc.fault)
	}
	var s *server
	if sc.ownServer {
		s = newServer(t)
	} else {
		s = sharedServer(t)
	}
	c := newCluster(t, s, sc.clockAhead != 0)
	c.proxied = sc.proxied
	if sc.params != nil {
		c.params = sc.params
	}
	if sc.clockAhead != 0 {
		c.setClockAhead(sc.clockAhead)
	}
	for _, service := range sc.services {
		var started []*node
		for range processesPerService {
			started = append(started, c.spawn(service, nil))
		}
		for _, n := range started {
			c.awaitStart(n)
		}
		c.leader() // is of the first service
	}

	// Without a first tick there is nothing to catch up on, and the leader starts its maintenance seconds after its
	// election.
	ready := []job{sc.services[0][0]}
	if provider == native { // whose intervals begin at the leader's election
		ready = sc.services[0]
	}
	for _, j := range ready {
		until(t, 3*time.Minute, j.Name+" has run", func() bool { return len(c.firstRuns(j.names()[0])) > 0 })
	}
	from := c.now()
	sc.inject(c)
	// Two more ticks of each job show whether it has recovered. A row that was deleted last is missed within 2 s.
	longest := time.Duration(0)
	for _, service := range sc.services {
		for _, j := range service {
			longest = max(longest, j.Every)
		}
	}
	now := c.now()
	to := now.Truncate(longest).Add(max(2*longest, 5*time.Second) + time.Second)
	pass(t, to.Sub(now))
	c.settle(to)

	var all []outcome
	for _, service := range sc.services {
		for _, j := range service {
			o := c.measure(j, from, to)
			o.fault = sc.fault
			if len(sc.services) > 1 {
				o.fault += " (" + j.Name + ")"
			}
			t.Log(o)
			all = append(all, o)
			if provider == native {
				continue
			}
			require.Zero(t, o.doubled, "doubled: %s", o)
			if sc.within > 0 {
				require.Less(t, o.latest, sc.within, "late: %s", o)
			}
			switch sc.promise {
			case nothingLost:
				stoodFor := 0
				if o.latest >= j.Every { // on a slow machine the next tick passed too
					stoodFor = o.stoodFor
				}
				require.Equal(t, stoodFor, o.lost, "lost: %s", o)
			case oneLateRun:
				require.Equal(t, o.stoodFor, o.lost, "lost: %s", o)
				require.Equal(t, 1, o.late, "late runs: %s", o)
				require.Zero(t, c.measure(j, to.Add(-2*j.Every), to).late, "on time again")
			case lateRuns:
				require.Equal(t, o.stoodFor, o.lost, "lost: %s", o)
				require.Zero(t, c.measure(j, to.Add(-2*j.Every), to).late, "on time again")
			}
		}
	}
	c.requireNoneDoubled()
	return all
}

// Short faults let go test ./... notice when the guarantee or this harness breaks.
func TestShortFaults(t *testing.T) {
	t.Parallel()
	for _, sc := range []scenario{
		{
			fault: "leader SIGKILL", services: every(2 * time.Second),
			inject: func(c *cluster) {
				killLeader(c, 2*time.Second, time.Second)
				pass(c.t, 4*time.Second) // without a leader
			},
		},
		{
			fault: "leader frozen for 5 s", services: every(2 * time.Second),
			inject: func(c *cluster) { freezeLeader(c, 5*time.Second) },
		},
		{
			// The interval is long enough for a busy machine to recover the database.
			fault: "Postgres down for 2.4 s across a tick", services: every(8 * time.Second), ownServer: true,
			inject: func(c *cluster) { takePostgresDown(c, 8*time.Second, 6800*time.Millisecond, 2400*time.Millisecond) },
		},
		{
			fault: "schedule's row deleted", services: every(3 * time.Second), notNative: true,
			inject: func(c *cluster) { deleteSchedules(c, 3*time.Second, 1500*time.Millisecond) },
		},
		{
			fault: "leader's connections half-open", services: every(2 * time.Second), proxied: true,
			inject: func(c *cluster) { halfOpenLeader(c, 2*time.Second, time.Second, 4*time.Second) },
		},
		{
			fault:    "process killed before the COMMIT of a tick",
			services: every(3 * time.Second), proxied: true, notNative: true, within: 2 * time.Second,
			inject: func(c *cluster) { loseAdvance(c, inserting, killed, 3*time.Second) },
		},
		{
			fault:    "connections half-open before the COMMIT of a tick",
			services: every(10 * time.Second), proxied: true, notNative: true, within: advanceBy,
			inject: func(c *cluster) { loseAdvance(c, committing, cutOff, 10*time.Second) },
		},
		{
			fault: "all jobs truncated", services: every(3 * time.Second), notNative: true, within: 2 * time.Second,
			inject: func(c *cluster) { truncateJobs(c, "") },
		},
		{
			fault: "process killed during a run", services: [][]job{held("tick")},
			inject: func(c *cluster) {
				leader := c.leader()
				killDuringRun(c, "tick.held", func(n *node) bool { return n != leader })
			},
		},
	} {
		t.Run(sc.fault, func(t *testing.T) {
			t.Parallel()
			sc.run(t)
		})
	}
}

// TestFaults injects every fault at full length and prints a table of the outcomes.
func TestFaults(t *testing.T) {
	t.Parallel()
	if !*faultsFlag {
		t.Skip("takes minutes: run with -faults")
	}
	const (
		s2, s5, s10, s20 = 2 * time.Second, 5 * time.Second, 10 * time.Second, 20 * time.Second
	)
	all := []scenario{
		{
			fault: "leader SIGKILL, 6 times", services: every(s5, s20),
			inject: func(c *cluster) {
				// In the middle of an interval, just before a tick, and just after one.
				ms := time.Millisecond
				for _, phase := range []time.Duration{2500 * ms, 4800 * ms, 350 * ms, 1500 * ms, 4900 * ms, 600 * ms} {
					service := killLeader(c, s5, phase)
					c.leader()
					c.launch(service)
				}
			},
		},
		{
			fault: "leader SIGTERM, 9 times", services: every(s5, s20),
			inject: func(c *cluster) {
				ms := time.Millisecond
				for _, phase := range []time.Duration{2500 * ms, 4900 * ms, 0, 500 * ms, 4950 * ms, 50 * ms, 750 * ms, 3500 * ms, 100 * ms} {
					leader := c.leader()
					c.awaitPhase(s5, phase)
					leader.terminate()
					c.launch(leader.jobs)
				}
			},
		},
		{
			fault: "leader frozen for 32 s", services: every(s2),
			inject: func(c *cluster) { freezeLeader(c, 32*time.Second) },
		},
		{
			fault: "every process down for 23 s", services: every(s5), promise: oneLateRun,
			inject: func(c *cluster) { takeEverythingDown(c, 23*time.Second) },
		},
		{
			fault: "Postgres down for 2.4 s across a tick", services: every(s5), ownServer: true,
			inject: func(c *cluster) { takePostgresDown(c, s5, 3800*time.Millisecond, 2400*time.Millisecond) },
		},
		{
			fault: "Postgres down for 26 s", services: every(s5), ownServer: true, promise: oneLateRun,
			inject: func(c *cluster) { takePostgresDown(c, s5, 2500*time.Millisecond, 26*time.Second) },
		},
		{
			fault: "leader's connections half-open", services: every(s5), proxied: true,
			inject: func(c *cluster) { halfOpenLeader(c, s5, 2500*time.Millisecond, 2*failOver) },
		},
		{
			fault:    "network drops all connections before the COMMIT of a tick",
			services: every(s5), proxied: true, promise: lateRuns, notNative: true,
			inject: func(c *cluster) {
				loseAdvance(c, committing, forgotten, s5)
				pass(c.t, time.Minute)
			},
		},
		{
			// As when a firewall loses its state: nothing comes back, and new connections work.
			fault:    "network drops all connections",
			services: every(s5), proxied: true, promise: lateRuns, notNative: true,
			inject: func(c *cluster) {
				forgetAll(c)
				pass(c.t, time.Minute)
			},
		},
		{
			fault:    "connections half-open before the COMMIT of a Start",
			services: every(s5), proxied: true, notNative: true,
			inject: func(c *cluster) { loseCommitOfStart(c, every(s5)[0]) },
		},
		{
			fault:    "process killed before the COMMIT of a tick, twice",
			services: every(s5, s20), proxied: true, notNative: true,
			inject: func(c *cluster) {
				loseAdvance(c, inserting, killed, s5)
				loseAdvance(c, committing, killed, s5)
			},
		},
		{
			fault: "schedule's row deleted, 5 times", services: every(s5), notNative: true,
			inject: func(c *cluster) {
				// Just after a tick, in the middle, and just before the next.
				for _, phase := range []time.Duration{50 * time.Millisecond, 350 * time.Millisecond, 1500 * time.Millisecond, 3 * time.Second, 4900 * time.Millisecond} {
					deleteSchedules(c, s5, phase)
				}
			},
		},
		{
			// More often than processes check that their rows exist.
			fault: "schedule's row deleted, 40 times", services: every(time.Second), notNative: true, promise: lateRuns,
			inject: func(c *cluster) {
				for range 40 {
					pass(c.t, 400*time.Millisecond+rand.N(900*time.Millisecond))
					execSQL(c.t, c.pool, `DELETE FROM river.everytick_schedule`)
				}
			},
		},
		{
			fault:    "processes' clocks 90 s ahead of the database's",
			services: every(s2, s20), clockAhead: -90 * time.Second,
			inject: func(c *cluster) { pass(c.t, 2*s20) },
		},
		{
			fault:    "processes' clocks 90 s behind the database's",
			services: every(s2, s20), clockAhead: 90 * time.Second,
			inject: func(c *cluster) { pass(c.t, 2*s20) },
		},
		{
			fault: "every third commit ambiguous", services: every(s2, s5), proxied: true,
			inject: func(c *cluster) { cutCommits(c, 40*time.Second) },
		},
		{
			fault: "two of three commits fail after the INSERT", services: every(s2, s5),
			inject: func(c *cluster) { failCommits(c, 40*time.Second) },
		},
		{
			fault: "process killed during a run", services: [][]job{held("tick")},
			inject: func(c *cluster) {
				for range 2 {
					killDuringRun(c, "tick.held", anyNode)
				}
			},
		},
		{
			fault:    "process frozen before the COMMIT of a tick",
			services: every(s10), proxied: true, notNative: true, within: advanceBy,
			inject: func(c *cluster) { loseAdvance(c, inserting, frozen, s10) },
		},
		{
			fault:    "connections half-open before the COMMIT of a tick, twice",
			services: every(s10), proxied: true, notNative: true, within: advanceBy,
			inject: func(c *cluster) {
				loseAdvance(c, inserting, cutOff, s10)
				loseAdvance(c, committing, cutOff, s10)
			},
		},
		{
			fault: "10,000 schedules: killed, frozen, half-open before the COMMIT", services: many(s20), params: cheap,
			proxied: true, alone: true, notNative: true, within: manyBy,
			inject: func(c *cluster) {
				loseAdvance(c, inserting, killed, s20)
				loseAdvance(c, inserting, frozen, s20)
				loseAdvance(c, committing, cutOff, s20)
			},
		},
		{
			fault: "all jobs truncated, 4 times", services: every(s2, s20), notNative: true, within: 4 * time.Second,
			inject: func(c *cluster) {
				for range 4 {
					truncateJobs(c, "")
					pass(c.t, 3*time.Second)
				}
			},
		},
		{
			fault:    "all jobs truncated and their IDs reused",
			services: every(s2, s5), notNative: true, within: 4 * time.Second,
			inject: func(c *cluster) {
				truncateAndReuse(c)
				pass(c.t, s10)
			},
		},
		{fault: "jobs kept for 1 minute, interval of 100 s", whole: shortRetention},
		{fault: "version rolled out and back, 4 times", whole: rollOut},
		{fault: "database's clock set an hour forward", whole: setClock},
		{fault: "process killed during a run with a timeout of an hour", whole: longTimeout},
		{fault: "Postgres down for 90 s during a run", whole: longOutage},
		{fault: "process frozen during a run until after its rescue", whole: wokenLate},
		{
			fault: "leader resigns every second for a minute", services: every(s2, s5),
			inject: func(c *cluster) {
				for range 60 {
					c.requestResign()
					pass(c.t, time.Second)
				}
			},
		},
		{
			// The leader does not know the job, so processes of the other service restore its row.
			fault:    "schedule's row deleted while another service leads",
			services: [][]job{jobsOf("leads", s5), jobsOf("follows", s5)}, notNative: true,
			inject: func(c *cluster) {
				c.awaitPhase(s5, 1500*time.Millisecond)
				execSQL(c.t, c.pool, `DELETE FROM river.everytick_schedule WHERE name LIKE 'follows.%'`)
				pass(c.t, 3*s5)
			},
		},
		{
			// The leader does not know the job, so processes of the other service rescue it.
			fault:    "process killed during a run while another service leads",
			services: [][]job{jobsOf("leads", s2), held("follows")}, notNative: true,
			inject: func(c *cluster) { killDuringRun(c, "follows.held", anyNode) },
		},
		{
			fault:    "two services in one schema, leader SIGKILL, twice",
			services: [][]job{jobsOf("one", s5), jobsOf("two", s5)},
			inject: func(c *cluster) {
				for range 2 {
					service := killLeader(c, s5, 2500*time.Millisecond)
					c.leader()
					c.launch(service)
				}
			},
		},
	}

	var mu sync.Mutex
	outcomes := make([][]outcome, len(all)+1) // and one for the first subtest below
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		var rows []outcome
		for _, o := range outcomes {
			rows = append(rows, o...)
		}
		fmt.Printf("\nprovider: %s; late means more than %s after the tick\n\n%s\n", provider, lateAfter, table(rows))
	})
	t.Run("every process down for 60 s, CatchUpAll", func(t *testing.T) {
		t.Parallel()
		skipNative(t)
		o := catchUpAll(t, sharedServer(t), s5, time.Minute)
		mu.Lock()
		defer mu.Unlock()
		outcomes[len(all)] = []outcome{o}
	})
	for i, sc := range all {
		t.Run(sc.fault, func(t *testing.T) {
			if !sc.alone {
				t.Parallel()
			}
			o := sc.run(t)
			mu.Lock()
			defer mu.Unlock()
			outcomes[i] = o
		})
	}
}

// killLeader kills the leader at the given phase after a tick, and returns the jobs it ran.
func killLeader(c *cluster, every, phase time.Duration) []job {
	leader := c.leader()
	c.awaitPhase(every, phase)
	leader.kill()
	return leader.jobs
}

// freezeLeader stops the leader's process for a while, as a suspended machine would.
func freezeLeader(c *cluster, length time.Duration) {
	leader := c.leader()
	c.awaitPhase(leader.jobs[0].Every, leader.jobs[0].Every/2)
	leader.freeze()
	pass(c.t, length)
	leader.thaw()
}

func takeEverythingDown(c *cluster, length time.Duration) {
	c.awaitPhase(c.living()[0].jobs[0].Every, c.living()[0].jobs[0].Every/2)
	var down [][]job
	for _, n := range c.living() {
		n.kill()
		down = append(down, n.jobs)
	}
	pass(c.t, length)
	var up []*node
	for _, service := range down {
		up = append(up, c.spawn(service, nil))
	}
	for _, n := range up {
		c.awaitStart(n)
	}
}

// takePostgresDown kills the server at the given phase after a tick, and starts it again after length.
func takePostgresDown(c *cluster, every, phase, length time.Duration) {
	c.awaitPhase(every, phase)
	require.NoError(c.t, c.server.Kill())
	pass(c.t, length)
	require.NoError(c.t, c.server.Restart(c.t.Context()))
	c.leader()
}

// deleteSchedules deletes the rows of all schedules at the given phase after a tick, and lets two ticks pass.
func deleteSchedules(c *cluster, every, phase time.Duration) {
	c.awaitPhase(every, phase)
	require.Positive(c.t, execSQL(c.t, c.pool, `DELETE FROM river.everytick_schedule`))
	pass(c.t, 2*every)
}

// halfOpenLeader silently drops all that the leader sends and receives.
func halfOpenLeader(c *cluster, every, phase, length time.Duration) {
	leader := c.leader()
	c.awaitPhase(every, phase)
	leader.proxy.goDark()
	pass(c.t, length)
}

// cutCommits breaks the connection at every third commit, in turns before it arrives and after the server has carried
// it out, which the client cannot tell apart.
func cutCommits(c *cluster, length time.Duration) {
	var count, cuts, ofTicks atomic.Int64
	for _, n := range c.living() {
		n.proxy.setHook(func(at moment) fate {
			if at != committing && at != otherCommit {
				return passes
			}
			f := []fate{cut, passes, passes, answerLost, passes, passes}[count.Add(1)%6]
			if f != passes {
				cuts.Add(1)
				if at == committing {
					ofTicks.Add(1)
				}
			}
			return f
		})
	}
	pass(c.t, length)
	for _, n := range c.living() {
		n.proxy.setHook(nil)
	}
	c.t.Logf("%d commits cut, %d of them of ticks", cuts.Load(), ofTicks.Load())
	require.Positive(c.t, ofTicks.Load(), "commits of ticks were cut")
}

// loseCommitOfStart makes the connections of a process half-open just before the COMMIT of its Start. The server keeps
// the lock that Start takes, but the next process must be able to start.
func loseCommitOfStart(c *cluster, service []job) {
	p := newProxy(c.t, c.server.socket(c.t), service)
	gone := make(chan struct{})
	var once sync.Once
	p.setHook(func(at moment) (f fate) {
		var locked bool
		err := c.pool.QueryRow(context.Background(), `SELECT EXISTS (SELECT FROM pg_locks
			WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))`).Scan(&locked)
		if err == nil && locked && (at == committing || at == otherCommit) {
			once.Do(func() {
				f = allLost
				close(gone)
			})
		}
		return f
	})
	c.spawn(service, p)
	select {
	case <-gone:
	case <-time.After(time.Minute):
		c.t.Fatal("no process committed its Start")
	}
	c.launch(service)
}

// failCommits makes two of three commits of new rows fail, as a deferred constraint or a full disk would. It counts
// with a sequence, which is not rolled back.
func failCommits(c *cluster, length time.Duration) {
	execSQL(c.t, c.pool, `CREATE SEQUENCE commits`)
	execSQL(c.t, c.pool, `CREATE FUNCTION fail_commit() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF nextval('public.commits') % 3 <> 0 THEN RAISE 'the commit fails'; END IF;
			RETURN NULL;
		END $$`)
	execSQL(c.t, c.pool, `CREATE CONSTRAINT TRIGGER fail_commit AFTER INSERT ON river.river_job
		DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail_commit()`)
	pass(c.t, length)
	execSQL(c.t, c.pool, `DROP TRIGGER fail_commit ON river.river_job`)
}

func anyNode(*node) bool { return true }

// killDuringRun kills a process while its handler runs, and waits until another process makes the next attempt.
func killDuringRun(c *cluster, name string, of func(*node) bool) {
	id, _, victim := c.awaitRun(name, c.now(), of)
	victim.kill()
	died := c.now()
	c.launch(victim.jobs)
	if c.provider == everytick {
		c.requireRunAgain(id, died)
		return
	}
	until(c.t, 2*failOver+time.Minute, "the job runs again", func() bool {
		return scalar[int](c.t, c.pool, `SELECT max(attempt) FROM runs WHERE job = $1`, id) == 2
	})
}
