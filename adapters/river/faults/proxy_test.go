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

// A proxy is the network between one process and the server. It can silently drop all bytes, or break a connection at
// the worst moment.
type proxy struct {
	upstream string
	jobs     [][]byte // their names, which identify statements about ticks
	listener net.Listener

	mu     sync.Mutex
	links  map[*link]struct{}
	closed bool
	dark   bool // all bytes are dropped, of new connections too
	// hook decides the fate of what a client sends at a moment.
	hook func(moment) fate
}

// A moment is a point at which losing a client or its connection is worst.
type moment int

const (
	otherMoments moment = iota // the hook is not called
	advancing                  // the UPDATE that advances schedules
	inserting                  // the INSERT of their ticks
	committing                 // the COMMIT of ticks
	otherCommit                // the COMMIT of any other transaction
)

// A fate is what the network does to what a client sends.
type fate int

const (
	passes     fate = iota
	cut             // the connection breaks before it arrives
	answerLost      // the server carries it out, and the connection breaks before the answer arrives
	allLost         // it and everything after it is dropped, so the server keeps an open transaction
	nowhere         // it is silently dropped
)

// What pgx sends in the simple protocol.
var (
	beginMessage    = []byte("Q\x00\x00\x00\x0abegin\x00")
	commitMessage   = []byte("Q\x00\x00\x00\x0bcommit\x00")
	rollbackMessage = []byte("Q\x00\x00\x00\x0drollback\x00")
	// pgx prepares a statement under a name, and sends only the name from then on.
	prepareAdvance = regexp.MustCompile(`(stmtcache_[0-9a-f]+)\x00[^\x00]*UPDATE [^\x00]*everytick_schedule AS s SET\s+next_tick`)
	prepareInsert  = regexp.MustCompile(`(stmtcache_[0-9a-f]+)\x00[^\x00]*INSERT INTO [^\x00]*river_job\(`)
)

// link is one connection through the proxy.
type link struct {
	client, server net.Conn
	// The following belong to the goroutine that reads from the client; see momentOf.
	ofTicks          bool     // whether the open transaction is about ticks
	updates, inserts [][]byte // names of statements

	lost        bool // guarded by proxy.mu: its bytes are dropped
	cutAtAnswer bool // guarded by proxy.mu: it breaks instead of passing on the next answer
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

// params returns the parameters of a connection string that lead through the proxy.
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
	if dark { // like an unreachable server: nothing ever comes back
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

// copy passes on what inspect lets pass, and drops everything once the link is lost.
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

// goDark silently drops everything from now on, which leaves connections half-open.
func (p *proxy) goDark() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dark = true
	for l := range p.links {
		l.lost = true
	}
}

// forget silently drops the bytes of all present connections, and lets new ones pass.
func (p *proxy) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.lost = true
	}
}

// reset breaks all connections, as the timeouts of both sides would in the end, and lets new ones pass.
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

// closeUnlessLost keeps a half-open connection open on the side that has not noticed.
func (l *link) closeUnlessLost(p *proxy) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !l.lost {
		l.close()
	}
}
