//go:build unix

package faults_test

import (
	"bytes"
	"context"
	"net"
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
	listener net.Listener

	mu      sync.Mutex
	links   map[*link]struct{}
	closed  bool
	dark    bool // all bytes of all connections, also new ones, are lost
	onBegin func()
	// onCommit is asked at each COMMIT what becomes of it.
	onCommit func() commitFate
}

// commitFate is what the network does to a COMMIT.
type commitFate int

const (
	commitPasses commitFate = iota
	commitLost              // the connection breaks before it arrives
	answerLost              // the connection breaks once it was carried out, before the answer arrives
	allLost                 // the network goes dark with it: the server sees an open transaction and no client
)

// What pgx sends, in the simple protocol.
var (
	beginMessage  = []byte("Q\x00\x00\x00\x0abegin\x00")
	commitMessage = []byte("Q\x00\x00\x00\x0bcommit\x00")
)

// link is one connection through the proxy.
type link struct {
	client, server net.Conn
	lost           bool // guarded by proxy.mu: its bytes are swallowed
	cutAtAnswer    bool // likewise: it breaks instead of passing on the next answer
}

func newProxy(t testing.TB, upstream string) *proxy {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{upstream: upstream, listener: listener, links: map[*link]struct{}{}}
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
	p.mu.Lock()
	onBegin, onCommit := p.onBegin, p.onCommit
	p.mu.Unlock()
	if onBegin != nil && bytes.Contains(chunk, beginMessage) {
		onBegin()
	}
	if onCommit == nil || !bytes.Contains(chunk, commitMessage) {
		return true
	}
	switch onCommit() {
	case commitLost:
		l.close()
		return false
	case answerLost:
		p.mu.Lock()
		l.cutAtAnswer = true
		p.mu.Unlock()
	case allLost:
		p.goDark()
		return false
	case commitPasses:
	}
	return true
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

// at sets what happens at BEGIN and COMMIT.
func (p *proxy) at(begin func(), commit func() commitFate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.onBegin, p.onCommit = begin, commit
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
