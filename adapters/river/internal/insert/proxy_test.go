package insert_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

// A pooler is a proxy between clients and the server. When answers is set, it replaces the server's answer to an
// INSERT into River's table, after the server has committed it.
type pooler struct {
	server  *pgconn.Config
	answers atomic.Pointer[pgproto3.ErrorResponse] // to INSERTs; nil passes the server's answer on
	dropped atomic.Bool                            // closes the connection instead of answering
}

// newPooler listens on loopback until the test ends, and returns its port.
func newPooler(t *testing.T, server *pgconn.Config) (*pooler, uint16) {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &pooler{server: server}
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
		listener.Close()
		served.Wait()
	})
	return p, uint16(listener.Addr().(*net.TCPAddr).Port) //nolint:gosec // a port
}

func (p *pooler) serve(client net.Conn) {
	defer client.Close()
	network, address := pgconn.NetworkAddress(p.server.Host, p.server.Port)
	server, err := (&net.Dialer{}).DialContext(context.Background(), network, address)
	if err != nil {
		return
	}
	defer server.Close()
	var pending atomic.Bool // an INSERT has no answer yet
	go func() {
		defer server.Close()
		defer client.Close()
		buf := make([]byte, 1<<20)
		for {
			n, err := client.Read(buf)
			if err != nil {
				return
			}
			if bytes.Contains(buf[:n], []byte("INSERT INTO")) && bytes.Contains(buf[:n], []byte("river_job(")) {
				pending.Store(true)
			}
			if _, err := server.Write(buf[:n]); err != nil {
				return
			}
		}
	}()
	for {
		message, err := readMessage(server)
		if err != nil {
			return
		}
		if pending.Load() && (p.answers.Load() != nil || p.dropped.Load()) {
			if message[0] != 'Z' { // the server is not ready yet
				continue
			}
			if p.dropped.Load() {
				return
			}
			answer, err := p.answers.Load().Encode(nil)
			if err != nil {
				return
			}
			message = append(answer, message...)
			if p.answers.Load().Severity == "FATAL" {
				_, _ = client.Write(answer)
				return
			}
		}
		if message[0] == 'Z' {
			pending.Store(false)
		}
		if _, err := client.Write(message); err != nil {
			return
		}
	}
}

// readMessage returns the server's next message.
func readMessage(r io.Reader) ([]byte, error) {
	head := make([]byte, 5)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	message := make([]byte, 1+binary.BigEndian.Uint32(head[1:]))
	copy(message, head)
	_, err := io.ReadFull(r, message[5:])
	return message, err
}
