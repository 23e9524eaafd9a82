package conns

import (
	"cmp"
	"context"
	"errors"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/everytick/everytick/adapters/river/internal/store"
)

// ownConns limits the connections that a started scheduler opens beside the pool it was given. On two cores 20 were no
// faster.
const ownConns = 4

// ownPing bounds how long a connection of the own pool that has been idle may take to answer before another one is
// used. A fetch, with a timeout of 10 s, can try all of them.
const ownPing = 2 * time.Second

// Config returns the settings of the application's pool for connections of the scheduler's own. Their sessions are
// prepared, unless pooled is set: a pooler may give them to others.
func Config(app *pgxpool.Pool, s *store.Store, pooled bool) *pgxpool.Config {
	cfg := app.Config()
	hideCancellations(cfg)
	if pooled {
		return cfg
	}
	configured := cfg.AfterConnect
	cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		if configured != nil {
			if err := configured(ctx, conn); err != nil {
				return err
			}
		}
		return s.PrepareSession(ctx, conn)
	}
	return cfg
}

// hideCancellations hides [context.Canceled] in errors of the application's functions whose own context has not ended:
// they may come from a request for a token, say, that somebody else has cancelled. River takes it for its own end. It
// would drop the results of jobs, and stop listening and electing leaders for good.
func hideCancellations(cfg *pgxpool.Config) {
	if f := cfg.BeforeConnect; f != nil {
		cfg.BeforeConnect = func(ctx context.Context, c *pgx.ConnConfig) error { return uncancelled(ctx, f(ctx, c)) }
	}
	if f := cfg.AfterConnect; f != nil {
		cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error { return uncancelled(ctx, f(ctx, conn)) }
	}
	if f := cfg.PrepareConn; f != nil {
		cfg.PrepareConn = func(ctx context.Context, conn *pgx.Conn) (bool, error) {
			ok, err := f(ctx, conn)
			return ok, uncancelled(ctx, err)
		}
	}
	if f := cfg.ConnConfig.DialFunc; f != nil {
		cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := f(ctx, network, addr)
			return conn, uncancelled(ctx, err)
		}
	}
}

func uncancelled(ctx context.Context, err error) error {
	if errors.Is(err, context.Canceled) && ctx.Err() == nil {
		return errors.New(err.Error())
	}
	return err
}

// Pool returns a pool for fetching, completing and scheduling jobs, which must not wait when handlers and the rest of
// the application use up theirs.
func Pool(ctx context.Context, cfg *pgxpool.Config) (*pgxpool.Pool, error) {
	cfg = cfg.Copy()
	cfg.MaxConns, cfg.MinConns, cfg.MinIdleConns = min(ownConns, cfg.MaxConns), 0, 0
	cfg.PingTimeout = cmp.Or(cfg.PingTimeout, ownPing)
	return pgxpool.NewWithConfig(context.WithoutCancel(ctx), cfg)
}

// Connect opens a connection beside the pools.
func Connect(ctx context.Context, cfg *pgxpool.Config) (*pgx.Conn, error) {
	cfg = cfg.Copy() // BeforeConnect may change it
	if cfg.BeforeConnect != nil {
		if err := cfg.BeforeConnect(ctx, cfg.ConnConfig); err != nil {
			return nil, err
		}
	}
	conn, err := pgx.ConnectConfig(ctx, cfg.ConnConfig)
	if err == nil && cfg.AfterConnect != nil {
		if err = cfg.AfterConnect(ctx, conn); err != nil {
			_ = conn.Close(ctx)
		}
	}
	return conn, err
}
