//go:build unix

package devdb_test

import (
	"archive/zip"
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/internal/devdb"
)

func TestOpen_TemporaryServerLeavesNothing(t *testing.T) {
	t.Parallel()
	db := open(t, devdb.Options{Fast: true})
	require.NotEmpty(t, db.Source)
	require.Equal(t, "on", query(t, db.URL, "SHOW integer_datetimes"))
	require.Equal(t, "off", query(t, db.URL, "SHOW fsync"))
	require.Empty(t, query(t, db.URL, "SHOW listen_addresses"), "listens only on the socket")
	pid, dir := db.PID(), tempDir(t, db.URL)
	require.True(t, alive(pid))
	require.DirExists(t, dir)

	require.NoError(t, db.Stop())
	require.False(t, alive(pid))
	require.NoDirExists(t, dir)
	require.Zero(t, db.PID())

	require.NoError(t, db.Stop(), "second call")
	require.ErrorContains(t, db.Kill(), "stopped")
	require.ErrorContains(t, db.Restart(t.Context()), "stopped")
}

func TestOpen_ServerOutlivesItsDB(t *testing.T) {
	t.Parallel()
	db, err := devdb.Open(t.Context(), devdb.Options{Fast: true, Getenv: noDatabaseURL})
	require.NoError(t, err)
	conn, err := pgx.Connect(t.Context(), db.URL)
	require.NoError(t, err)
	defer conn.Close(t.Context())
	_, err = conn.Exec(t.Context(), "LISTEN nothing")
	require.NoError(t, err)

	for range 3 {
		runtime.GC() // db is unreachable from here on
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = conn.WaitForNotification(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded, "the connection broke, so the server stopped")
}

func TestOpen_PortIsOnlyOnLoopback(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := l.Addr().(*net.TCPAddr).Port

	_, err = devdb.Open(t.Context(), devdb.Options{Port: port, Getenv: noDatabaseURL})
	require.ErrorContains(t, err, "Address already in use", "the error has the end of the log")

	require.NoError(t, l.Close())
	db := open(t, devdb.Options{Port: port, Fast: true})
	require.Equal(t, "127.0.0.1", query(t, db.URL, "SHOW listen_addresses"))
	query(t, fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", port), "SELECT 'reached'")
}

func TestDB_RestartKeepsAddressAndData(t *testing.T) {
	t.Parallel()
	db := open(t, devdb.Options{Fast: true})
	query(t, db.URL, "CREATE TABLE kept AS SELECT 'still here' AS note")

	takeDown := map[string]func(){
		"DB.Kill":             func() { require.NoError(t, db.Kill()) },
		"kill -9":             func() { require.NoError(t, syscall.Kill(db.PID(), syscall.SIGKILL)) },
		"running":             func() {},
		"SIGSTOP and DB.Kill": func() { require.NoError(t, syscall.Kill(db.PID(), syscall.SIGSTOP)); require.NoError(t, db.Kill()) },
	}
	for how, down := range takeDown {
		conn, err := pgx.Connect(t.Context(), db.URL)
		require.NoError(t, err, how)
		before := db.PID()
		down()
		if how != "running" {
			require.Eventually(t, func() bool { return db.PID() == 0 }, 10*time.Second, 10*time.Millisecond, how)
			// The process of a connection notices a moment later that the postmaster is gone.
			require.Eventually(t, func() bool { return conn.Ping(t.Context()) != nil }, 10*time.Second, 10*time.Millisecond, how)
		}
		require.NoError(t, db.Restart(t.Context()), how)
		require.NotEqual(t, before, db.PID(), how)
		require.Equal(t, "still here", query(t, db.URL, "SELECT note FROM kept"), how)
		require.NoError(t, conn.Close(t.Context()), how)
	}
}

func TestOpen_DataDirIsKept(t *testing.T) {
	t.Parallel()
	data := filepath.Join(publicDir(t), "parent", "with space")
	db := open(t, devdb.Options{DataDir: data})
	query(t, db.URL, "CREATE TABLE kept AS SELECT 'still here' AS note")

	_, err := devdb.Open(t.Context(), devdb.Options{DataDir: data, Getenv: noDatabaseURL})
	require.ErrorContains(t, err, "is in use by another process")
	query(t, db.URL, "SELECT note FROM kept") // the first server is unaffected

	pidFile := filepath.Join(data, "postmaster.pid")
	pid, err := os.ReadFile(pidFile)
	require.NoError(t, err)
	_, rest, _ := strings.Cut(string(pid), "\n")
	require.NoError(t, db.Stop())
	require.NoFileExists(t, pidFile)

	// As after a crash and a reboot, when another process of the same user has the process ID.
	other := exec.Command("sleep", "600")
	other.SysProcAttr = &syscall.SysProcAttr{Credential: owner(t, data)}
	other.Dir = "/"
	require.NoError(t, other.Start())
	t.Cleanup(func() { _ = other.Process.Kill(); _ = other.Wait() })
	require.NoError(t, os.WriteFile(pidFile, []byte(strconv.Itoa(other.Process.Pid)+"\n"+rest), 0o600))
	require.NoError(t, os.Lchown(pidFile, int(stat(t, data).Uid), int(stat(t, data).Gid)))

	db = open(t, devdb.Options{DataDir: data})
	require.Equal(t, "still here", query(t, db.URL, "SELECT note FROM kept"))
	require.True(t, alive(other.Process.Pid), "the other process must be left alone")
	require.NoError(t, db.Stop())

	require.NoError(t, os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte("8\n"), 0o600))
	_, err = devdb.Open(t.Context(), devdb.Options{DataDir: data, Getenv: noDatabaseURL})
	require.ErrorContains(t, err, "was created by Postgres 8")
}

func TestOpen_UnusableDataDir(t *testing.T) {
	t.Parallel()
	full := publicDir(t)
	require.NoError(t, os.WriteFile(filepath.Join(full, "letter.txt"), nil, 0o600))
	_, err := devdb.Open(t.Context(), devdb.Options{DataDir: full, Getenv: noDatabaseURL})
	require.ErrorContains(t, err, "is neither empty nor the data directory of a Postgres")
	require.FileExists(t, filepath.Join(full, "letter.txt"))

	if os.Geteuid() != 0 {
		return // the rest is about the user that root runs the server as
	}
	private := filepath.Join(publicDir(t), "private")
	require.NoError(t, os.Mkdir(private, 0o700))
	_, err = devdb.Open(t.Context(), devdb.Options{DataDir: filepath.Join(private, "a", "b"), Getenv: noDatabaseURL})
	require.ErrorContains(t, err, fmt.Sprintf("cannot enter %q", private))
	require.NoDirExists(t, filepath.Join(private, "a"), "nothing was created")
}

// The process ends without calling Stop.
func TestOpen_ServerStopsWhenProcessEnds(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"kill", "panic", "exit"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			data := filepath.Join(publicDir(t), "data")
			child := startOwner(t, "OWNER_END="+end, "OWNER_DATA="+data)
			require.True(t, alive(child.pid))
			query(t, child.url, "CREATE TABLE kept AS SELECT 'still here' AS note")

			if end == "kill" {
				require.NoError(t, child.cmd.Process.Kill())
			} else {
				require.NoError(t, child.stdin.Close())
			}
			require.Error(t, child.cmd.Wait())

			require.Eventually(t, func() bool {
				_, err := os.Stat(tempDir(t, child.url))
				return !alive(child.pid) && errors.Is(err, os.ErrNotExist)
			}, 20*time.Second, 20*time.Millisecond)
			require.NoFileExists(t, filepath.Join(data, "postmaster.pid"), "must shut down cleanly")
			db := open(t, devdb.Options{DataDir: data})
			require.Equal(t, "still here", query(t, db.URL, "SELECT note FROM kept"))
		})
	}
}

func TestOpen_KilledDuringInitdbLeavesNothing(t *testing.T) {
	t.Parallel()
	tmp := publicDir(t)
	// A fake initdb that writes its process ID and data directory and runs for ever.
	bin := filepath.Join(publicDir(t), "bin")
	require.NoError(t, os.Mkdir(bin, 0o755))
	script(t, filepath.Join(bin, "postgres"), `echo "postgres (PostgreSQL) 17.5"`)
	script(t, filepath.Join(bin, "initdb"), `echo "$$ $2" >`+tmp+`/where; exec sleep 600`)
	require.NoError(t, os.Chmod(tmp, 0o777))

	child := ownerCommand("OWNER_END=kill", "PGBIN="+bin)
	require.NoError(t, child.Start())
	var pid int
	var data string
	require.Eventually(t, func() bool {
		b, _ := os.ReadFile(filepath.Join(tmp, "where"))
		n, _ := fmt.Sscan(string(b), &pid, &data)
		return n == 2
	}, 20*time.Second, 10*time.Millisecond)
	require.NoError(t, child.Process.Kill())
	require.Error(t, child.Wait())
	require.Eventually(t, func() bool {
		_, err := os.Stat(filepath.Dir(data))
		return !alive(pid) && errors.Is(err, os.ErrNotExist)
	}, 20*time.Second, 20*time.Millisecond)
}

func TestOpen_IgnoresEnvironment(t *testing.T) {
	t.Parallel()
	closed := filepath.Join(t.TempDir(), "closed")
	require.NoError(t, os.Mkdir(closed, 0o700))
	child := startOwner(t, "OWNER_END=stop", "TMPDIR="+closed, "PGHOST=/nowhere", "PGPORT=1", "PGUSER=stray",
		"PGDATABASE=stray", "PGSERVICE=stray", "PGSSLMODE=verify-full", "PGDATA=/nowhere", "HOME=/nowhere")
	require.NoError(t, child.stdin.Close())
	require.NoError(t, child.cmd.Wait(), "the child must connect and stop the server")
	require.NoDirExists(t, tempDir(t, child.url))
}

// TestOwner is not a test but the process that owns a server in the tests above.
func TestOwner(t *testing.T) {
	t.Parallel()
	end := os.Getenv("OWNER_END")
	if end == "" {
		return
	}
	db, err := devdb.Open(context.Background(), devdb.Options{DataDir: os.Getenv("OWNER_DATA"), Fast: true, Getenv: noDatabaseURL})
	require.NoError(t, err)
	query(t, db.URL, "SELECT 1")
	fmt.Printf("\nready %d %s\n", db.PID(), db.URL)
	_, _ = io.Copy(io.Discard, os.Stdin)
	switch end {
	case "panic": // go test -timeout also ends a test binary like this
		go panic("in another goroutine")
		select {}
	case "exit":
		os.Exit(3)
	case "stop":
		require.NoError(t, db.Stop())
	}
}

func TestOpen_DatabaseURL(t *testing.T) {
	t.Parallel()
	theirs := open(t, devdb.Options{Fast: true})
	db, err := devdb.OpenOnBareMachine(t.Context(), devdb.Options{Getenv: env("DATABASE_URL", theirs.URL)})
	require.NoError(t, err)
	require.Equal(t, theirs.URL, db.URL)
	require.Equal(t, "DATABASE_URL", db.Source)
	require.Zero(t, db.PID())
	require.ErrorContains(t, db.Kill(), "left alone")
	require.ErrorContains(t, db.Restart(t.Context()), "left alone")
	require.NoError(t, db.Stop())
	query(t, theirs.URL, "SELECT 'running'")

	for _, dsn := range []string{
		"postgres://u:secret@127.0.0.1:1/db", // nothing listens there
		"postgres://u:p#secret@127.0.0.1/db",
		"postgres://u:p/secret@127.0.0.1/db",
		"host=127.0.0.1 port=secret password=secret",
		strings.Replace(theirs.URL, "postgres@", "nobody:secret@", 1), // no such role
	} {
		_, err := devdb.Open(t.Context(), devdb.Options{Getenv: env("DATABASE_URL", dsn)})
		require.ErrorContains(t, err, "DATABASE_URL")
		require.NotContains(t, err.Error(), "secret")
	}
}

func TestOpen_NothingInstalled(t *testing.T) {
	t.Parallel()
	_, err := devdb.OpenOnBareMachine(t.Context(), devdb.Options{Getenv: noDatabaseURL})
	for _, advice := range []string{"apt-get install postgresql", "brew install", "winget install", "DATABASE_URL", "PGBIN", "no network"} {
		require.ErrorContains(t, err, advice)
	}

	_, err = devdb.Open(t.Context(), devdb.Options{Getenv: env("PGBIN", "/nowhere")})
	require.ErrorContains(t, err, `PGBIN is set to "/nowhere"`)
}

func TestLocalBinaries_Order(t *testing.T) {
	t.Parallel()
	root, err := filepath.EvalSymlinks(publicDir(t))
	require.NoError(t, err)
	install := func(major string) string {
		dir := filepath.Join(root, major, "bin")
		require.NoError(t, os.MkdirAll(dir, 0o755))
		script(t, filepath.Join(dir, "postgres"), `echo "postgres (PostgreSQL) `+major+`.1 (Debian)"`)
		script(t, filepath.Join(dir, "initdb"), "exit 1")
		return dir
	}
	v9, v10, v17 := install("9"), install("10"), install("17")
	require.NoError(t, os.Remove(filepath.Join(install("18"), "initdb"))) // an incomplete installation is skipped
	linked, config := filepath.Join(root, "linked"), filepath.Join(root, "config")
	require.NoError(t, errors.Join(os.Mkdir(linked, 0o755), os.Mkdir(config, 0o755)))
	require.NoError(t, os.Symlink(filepath.Join(v9, "postgres"), filepath.Join(linked, "postgres")))
	script(t, filepath.Join(config, "pg_config"), "echo "+v10)
	usual := filepath.Join(root, "*", "bin")

	for _, row := range []struct {
		name, key, value string
		want             []string
	}{
		{"newest version first", "", "", []string{v17, v10, v9}},
		{"PATH first, following symlinks", "PATH", linked + ":relative:", []string{v9, v17, v10}},
		{"pg_config on PATH", "PATH", config, []string{v10, v17, v9}},
		{"only PGBIN", "PGBIN", v10, []string{v10}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			dirs, err := devdb.Search(t.Context(), env(row.key, row.value), usual)
			require.NoError(t, err)
			require.Equal(t, row.want, dirs)
		})
	}
}

func TestDownload(t *testing.T) {
	t.Parallel()
	// bin/postgres, which prints a version, and bin/initdb, which fails.
	const txz = `/Td6WFoAAATm1rRGAgAhARYAAAB0L+Wj4Cf/ALldADEaShsFkZA3OlG9V3Gz1uIDp1boM29l9chGZkw+aSt4XWCZAm+Kb+PVJz6E
GWZw4uW80NU2SMaLDJfrTUf6wCJDrXz2ziZqVz8d8vk+uxo2935lC9vdie2MqZGf18Q4+FL36Cq5/wTsXSLIeDGfVKwe2bQv3TeJ
0gIP+M0DMa6DjIShFK1PiAO3QKakPPH6sOrxNWU9fGt6ciniNs8khZ0LyKOyU7PiM0yUUUOSHHNPZGwtEXB1YGAAAAAAABp5Xkf6
90DnAAHVAYBQAAB66CM9scRn+wIAAAAABFla`
	repository := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, ".jar") {
			http.NotFound(w, r)
			return
		}
		jar := zip.NewWriter(w)
		f, _ := jar.Create("postgres.txz")
		_, _ = io.Copy(f, base64.NewDecoder(base64.StdEncoding, strings.NewReader(txz)))
		_ = jar.Close()
	}))
	t.Cleanup(repository.Close)
	cache := t.TempDir()
	dir := filepath.Join(cache, "postgres")

	source, err := devdb.Download(t.Context(), repository.URL, dir)
	require.NoError(t, err)
	require.Equal(t, "embedded-postgres download", source)
	_, err = devdb.Download(t.Context(), repository.URL, dir)
	require.NoError(t, err, "dir exists, as if another process had been faster")
	left, err := filepath.Glob(filepath.Join(cache, "*"))
	require.NoError(t, err)
	require.Equal(t, []string{dir}, left)

	_, err = devdb.Download(t.Context(), repository.URL+"/%zz", filepath.Join(cache, "other"))
	require.Error(t, err)
}

func noDatabaseURL(key string) string {
	if key == "DATABASE_URL" {
		return ""
	}
	return os.Getenv(key)
}

// env returns an environment with a single variable.
func env(key, value string) func(string) string {
	return func(k string) string {
		if k == key {
			return value
		}
		return ""
	}
}

func open(t *testing.T, o devdb.Options) *devdb.DB {
	t.Helper()
	o.Getenv = noDatabaseURL
	db, err := devdb.Open(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Stop()) })
	return db
}

// query returns the first column of the first row, or "" if there is no row.
func query(t *testing.T, dsn, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	defer conn.Close(t.Context())
	rows, err := conn.Query(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) { return string(row.RawValues()[0]), nil })
	require.NoError(t, err)
	if len(all) == 0 {
		return ""
	}
	return all[0]
}

// publicDir returns a temporary directory that other users can enter, unlike t.TempDir.
func publicDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "devdb-test-") //nolint:usetesting // the parent of t.TempDir is closed to others
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755))
	return dir
}

func script(t *testing.T, name, body string) {
	t.Helper()
	require.NoError(t, os.WriteFile(name, []byte("#!/bin/sh\n"+body+"\n"), 0o755))
}

// tempDir returns the directory of the server's socket.
func tempDir(t *testing.T, dsn string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	return u.Query().Get("host")
}

// alive reports whether there is a process with that ID. A zombie counts as gone where the system has /proc.
func alive(pid int) bool {
	if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil {
		return !strings.Contains(string(stat), ") Z ")
	}
	return syscall.Kill(pid, 0) == nil
}

func stat(t *testing.T, name string) *syscall.Stat_t {
	t.Helper()
	fi, err := os.Stat(name)
	require.NoError(t, err)
	return fi.Sys().(*syscall.Stat_t)
}

// owner returns the credential for running a child as the owner of a file.
func owner(t *testing.T, name string) *syscall.Credential {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	return &syscall.Credential{Uid: stat(t, name).Uid, Gid: stat(t, name).Gid}
}

type ownerProcess struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	pid   int // of the server
	url   string
}

func ownerCommand(environ ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], "-test.run=^TestOwner$", "-test.timeout=1m")
	cmd.Env = append(os.Environ(), environ...)
	return cmd
}

// startOwner runs TestOwner in another process and returns when its server is up.
func startOwner(t *testing.T, environ ...string) ownerProcess {
	t.Helper()
	cmd := ownerCommand(environ...)
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })

	child, seen := ownerProcess{cmd: cmd, stdin: stdin}, ""
	for lines := bufio.NewScanner(stdout); lines.Scan(); seen += lines.Text() + "\n" {
		if n, _ := fmt.Sscanf(lines.Text(), "ready %d %s", &child.pid, &child.url); n == 2 {
			return child
		}
	}
	require.FailNow(t, "the owner did not start its server", "%s", seen)
	return child
}
