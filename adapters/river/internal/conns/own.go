package conns

import (
	"cmp"
	"context"
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
