package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hibiken/asynq"
)

// asynqConcurrency is the value in asynq's README; the default is the number of cores. More workers do not help with
// no-op jobs, because a single goroutine fetches for all of them.
const asynqConcurrency = 10

// pollInterval is everytick's own, for libraries that have the setting but recommend no value.
const pollInterval = 200 * time.Millisecond

var asynqPeer = peer{
	name:    "asynq",
	title:   "asynq",
	version: func() string { return moduleVersion("github.com/hibiken/asynq") },
	missing: func(context.Context) string {
		if _, err := exec.LookPath("redis-server"); err != nil {
			return "found no redis-server (apt-get install redis-server)"
		}
		return ""
	},
	run: func(ctx context.Context, _ string, s step) (r result, err error) {
		socket, stop, err := startRedis(ctx)
		if err != nil {
			return r, err
		}
		defer func() { err = errors.Join(err, stop()) }()
		opt := asynq.RedisClientOpt{Network: "unix", Addr: socket, PoolSize: 50}
		return measure(ctx, &asynqLibrary{opt: opt, client: asynq.NewClient(opt), inspector: asynq.NewInspector(opt)}, s)
	},
}

// startRedis starts an empty Redis that, like Postgres, is durable and listens on a Unix socket.
func startRedis(ctx context.Context) (socket string, stop func() error, err error) {
	dir, err := os.MkdirTemp("", "peers-redis-")
	if err != nil {
		return "", nil, err
	}
	socket = filepath.Join(dir, "redis.sock")
	cmd := exec.Command("redis-server", "--port", "0", "--unixsocket", socket, "--dir", dir, "--save", "",
		"--appendonly", "yes", "--appendfsync", "always")
	if err := cmd.Start(); err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	stop = func() error {
		err := cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		return errors.Join(err, os.RemoveAll(dir))
	}
	for range 200 {
		if _, err := os.Stat(socket); err == nil {
			return socket, stop, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return "", nil, errors.Join(errors.New("redis-server did not start"), ctx.Err(), stop())
}

type asynqLibrary struct {
	opt       asynq.RedisClientOpt
	client    *asynq.Client
	inspector *asynq.Inspector
}

func (a *asynqLibrary) add(ctx context.Context, n int, opts ...asynq.Option) error {
	data, err := json.Marshal(payload{n})
	if err != nil {
		return err
	}
	_, err = a.client.EnqueueContext(ctx, asynq.NewTask(string(noop), data), opts...)
	return err
}

func (a *asynqLibrary) enqueue(ctx context.Context, n int) error { return a.add(ctx, n) }

func (a *asynqLibrary) enqueueAfter(ctx context.Context, n int, delay time.Duration) error {
	return a.add(ctx, n, asynq.ProcessIn(delay))
}

// enqueueMany uses many callers, because asynq has no batches.
func (a *asynqLibrary) enqueueMany(ctx context.Context, n int, at time.Time) error {
	const callers = 50
	var next atomic.Int64
	errs := make([]error, callers)
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			var opts []asynq.Option
			if !at.IsZero() {
				opts = append(opts, asynq.ProcessAt(at))
			}
			for i := int(next.Add(1)) - 1; i < n && errs[c] == nil; i = int(next.Add(1)) - 1 {
				errs[c] = a.add(ctx, i, opts...)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (a *asynqLibrary) start(_ context.Context, tuned bool, handle func(int)) (func() error, error) {
	cfg := asynq.Config{LogLevel: asynq.WarnLevel}
	if tuned {
		cfg.Concurrency = asynqConcurrency
		cfg.TaskCheckInterval = pollInterval
		cfg.DelayedTaskCheckInterval = pollInterval
	}
	server := asynq.NewServer(a.opt, cfg)
	err := server.Start(asynq.HandlerFunc(func(_ context.Context, t *asynq.Task) error {
		var p payload
		if err := json.Unmarshal(t.Payload(), &p); err != nil {
			return err
		}
		handle(p.N)
		return nil
	}))
	return func() error {
		server.Shutdown()
		return nil
	}, err
}

func (a *asynqLibrary) unfinished(context.Context) (int, error) {
	info, err := a.inspector.GetQueueInfo("default")
	if err != nil {
		return 0, err
	}
	return info.Size, nil
}

func (a *asynqLibrary) settle(context.Context) error { return nil }

func (a *asynqLibrary) close() {
	a.client.Close()
	a.inspector.Close()
}

// moduleVersion returns the version of a dependency of this program.
func moduleVersion(path string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == path {
				return m.Version
			}
		}
	}
	return fmt.Sprintf("(%s)", path)
}
