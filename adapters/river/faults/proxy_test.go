//go:build unix

package faults_test

import (
	"bytes"
	"context"
	"net"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// A proxy is the network between one process and the server. It can do what
// networks do: lose all bytes without a word, or break a connection at the worst
// moment.
type proxy struct {
	upstream string
	jobs     [][]byte // names, by which to know ticks in what is sent
	listener net.Listener

	mu     sync.Mutex
	links  map[*link]struct{}
	closed bool
	dark   bool // all bytes of all connections, also new ones, are lost
	// hook is asked what becomes of what a client sends at some moments.
	hook func(moment) fate
}

// A moment is one at which it is worst to lose a client or its connection.
type moment int

const (
	otherMoments moment = iota // no hook is asked
	advancing                  // the UPDATE that advances schedules
	inserting                  // the INSERT of their ticks
	committing                 // COMMIT of ticks
	otherCommit                // COMMIT of any other transaction
)

// A fate is what the network does to what a client sends.
type fate int

const (
	passes     fate = iota
	cut             // the connection breaks before it arrives
	answerLost      // the connection breaks once it was carried out, before the answer arrives
	allLost         // the network goes dark with it: the server sees an open transaction and no client
	nowhere         // it does not arrive, and nobody is told
)

// What pgx sends, in the simple protocol.
var (
	beginMessage    = []byte("Q\x00\x00\x00\x0abegin\x00")
	commitMessage   = []byte("Q\x00\x00\x00\x0bcommit\x00")
	rollbackMessage = []byte("Q\x00\x00\x00\x0drollback\x00")
	// A statement is prepared under a name, by which it is meant from then on.
	prepareAdvance = regexp.MustCompile(`(stmtcache_[0-9a-f]+)\x00[^\x00]*UPDATE [^\x00]*everytick_schedule AS s SET\s+next_tick`)
	prepareInsert  = regexp.MustCompile(`(stmtcache_[0-9a-f]+)\x00[^\x00]*INSERT INTO [^\x00]*river_job\(`)
)

// link is one connection through the proxy.
type link struct {
	client, server net.Conn
	// These are of the goroutine that reads from the client; see momentOf.
	ofTicks          bool     // the transaction that is open, if there is one
	updates, inserts [][]byte // names of statements

	lost        bool // guarded by proxy.mu: its bytes are swallowed
	cutAtAnswer bool // likewise: it breaks instead of passing on the next answer
}

func newProxy(t testing.TB, upstream string, all []job) *proxy {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{upstream: upstream, listener: listener, links: map[*link]struct{}{}}
	for _, j := range all {
		p.jobs = append(p.jobs, []byte(j.Name))
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			served.Go(func() { p.serve(client) })
		}
	})
	t.Cleanup(func() {
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		listener.Close()
		p.reset()
		served.Wait()
	})
	return p
}

// params are the changes to a connection string that lead through the proxy.
func (p *proxy) params() map[string]string {
	port := p.listener.Addr().(*net.TCPAddr).Port
	return map[string]string{"host": "127.0.0.1", "port": strconv.Itoa(port)}
}

func (p *proxy) serve(client net.Conn) {
	l := &link{client: client}
	defer l.close()
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	l.lost = p.dark
	p.links[l] = struct{}{}
	dark := p.dark
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.links, l)
		p.mu.Unlock()
	}()
	if dark { // like a server that cannot be reached: nothing comes back, ever
		p.copy(l, client, nil, nil)
		return
	}
	server, err := (&net.Dialer{}).DialContext(context.Background(), "unix", p.upstream)
	if err != nil {
		return
	}
	p.mu.Lock()
	l.server = server
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() {
		p.copy(l, client, server, p.fromClient)
		l.closeUnlessLost(p)
	})
	both.Go(func() {
		p.copy(l, server, client, p.fromServer)
		l.closeUnlessLost(p)
	})
	both.Wait()
}

// copy passes on what src says as long as inspect allows it, and swallows it once
// the link is lost.
func (p *proxy) copy(l *link, src, dst net.Conn, inspect func(l *link, chunk []byte) (pass bool)) {
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			p.mu.Lock()
			lost := l.lost
			p.mu.Unlock()
			if !lost && inspect(l, buf[:n]) {
				if _, err := dst.Write(buf[:n]); err != nil {
					return
				}
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *proxy) fromClient(l *link, chunk []byte) (pass bool) {
	at := p.momentOf(l, chunk)
	p.mu.Lock()
	hook := p.hook
	p.mu.Unlock()
	if hook == nil || at == otherMoments {
		return true
	}
	switch hook(at) {
	case cut:
		l.close()
		return false
	case answerLost:
		p.mu.Lock()
		l.cutAtAnswer = true
		p.mu.Unlock()
	case allLost:
		p.goDark()
		return false
	case nowhere:
		return false
	case passes:
	}
	return true
}

func (p *proxy) momentOf(l *link, chunk []byte) moment {
	contains := func(part []byte) bool { return bytes.Contains(chunk, part) }
	switch {
	case contains(beginMessage), contains(rollbackMessage):
		l.ofTicks = false
	case contains(commitMessage):
		if l.ofTicks {
			l.ofTicks = false
			return committing
		}
		return otherCommit
	}
	if m := prepareAdvance.FindSubmatch(chunk); m != nil {
		l.updates = append(l.updates, bytes.Clone(m[1]))
	}
	if m := prepareInsert.FindSubmatch(chunk); m != nil {
		l.inserts = append(l.inserts, bytes.Clone(m[1]))
	}
	switch {
	case !slices.ContainsFunc(p.jobs, contains):
	case slices.ContainsFunc(l.updates, contains):
		l.ofTicks = true
		return advancing
	case slices.ContainsFunc(l.inserts, contains):
		l.ofTicks = true // River's own periodic jobs advance nothing
		return inserting
	}
	return otherMoments
}

func (p *proxy) fromServer(l *link, _ []byte) (pass bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.cutAtAnswer {
		l.close()
	}
	return !l.cutAtAnswer && !l.lost
}

// goDark loses everything from now on, without a word to either side: the
// connections are half-open.
func (p *proxy) goDark() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dark = true
	for l := range p.links {
		l.lost = true
	}
}

// forget loses all connections without a word, and lets new ones pass.
func (p *proxy) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.lost = true
	}
}

// reset breaks all connections as the two sides' own timeouts would in the end,
// and lets new ones pass.
func (p *proxy) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dark = false
	for l := range p.links {
		l.close()
	}
}

func (p *proxy) setHook(hook func(moment) fate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hook = hook
}

func (l *link) close() {
	l.client.Close()
	if l.server != nil {
		l.server.Close()
	}
}

// closeUnlessLost keeps a half-open connection open on the side that knows nothing.
func (l *link) closeUnlessLost(p *proxy) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !l.lost {
		l.close()
	}
}
