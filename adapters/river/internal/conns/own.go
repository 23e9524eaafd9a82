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

// An Opener opens connections for the scheduler alone, as those of the application's pool are. Create one with
// [NewOpener].
type Opener struct {
	app    *pgxpool.Pool
	store  *store.Store
	pooled bool
}

// NewOpener returns an opener beside the application's pool. If pooled is set, sessions are left as they are, because a
// pooler may give them to others.
func NewOpener(app *pgxpool.Pool, s *store.Store, pooled bool) *Opener {
	return &Opener{app: app, store: s, pooled: pooled}
}

// Pool returns a pool for fetching, completing and scheduling jobs, which must not wait when handlers and the rest of
// the application use up theirs.
func (o *Opener) Pool(ctx context.Context) (*pgxpool.Pool, error) {
	cfg := o.config()
	cfg.MaxConns, cfg.MinConns, cfg.MinIdleConns = min(ownConns, cfg.MaxConns), 0, 0
	cfg.PingTimeout = cmp.Or(cfg.PingTimeout, ownPing)
	return pgxpool.NewWithConfig(context.WithoutCancel(ctx), cfg)
}

// Connect opens a connection beside the pools.
func (o *Opener) Connect(ctx context.Context) (*pgx.Conn, error) {
	cfg := o.config()
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

// config returns the application's settings, after which a session is prepared.
func (o *Opener) config() *pgxpool.Config {
	cfg := o.app.Config()
	configured := cfg.AfterConnect
	if o.pooled {
		return cfg
	}
	cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		if configured != nil {
			if err := configured(ctx, conn); err != nil {
				return err
			}
		}
		return o.store.PrepareSession(ctx, conn)
	}
	return cfg
}
