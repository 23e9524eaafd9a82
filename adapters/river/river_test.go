package river_test

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/internal/devdb/dbtest"
)

// TestMain runs 24 tests at once. They mostly wait for delays and ticks, so the default of one per CPU takes longer.
// Many more are late on a busy machine.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "24"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// migrated is a template database with River's tables. Each test gets a copy.
var migrated = dbtest.New(func(ctx context.Context, pool *pgxpool.Pool) error { return river.Migrate(ctx, pool, nil) })

// cuttable is the network between a pool and its database, until it is cut.
type cuttable struct {
	pool *pgxpool.Pool

	mu    sync.Mutex
	isCut bool
	conns []net.Conn
}

func (n *cuttable) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.isCut = true
	for _, c := range n.conns {
		_ = c.Close()
	}
	n.conns = nil
}

func breakablePool(t testing.TB, configure ...func(*pgxpool.Config)) (*pgxpool.Pool, *cuttable) {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(migrated.URL(t))
	require.NoError(t, err)
	for _, f := range configure {
		f(cfg)
	}
	n := &cuttable{}
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.isCut {
			return nil, errors.New("the network is cut")
		}
		c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err == nil {
			n.conns = append(n.conns, c)
		}
		return c, err
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool, n
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
