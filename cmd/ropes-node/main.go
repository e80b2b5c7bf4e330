// Command ropes-node is every program that a node runs, in one file: Kubernetes'
// components, etcd, containerd, CoreDNS, metrics-server and ropes' own agents. The name
// it is called by, or else its first argument, says which one it is.
//
// One file on disk means one set of text pages in memory for all of these processes.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// applet is one of the programs. It gets the arguments that the program itself would
// see and returns its exit status.
type applet func(ctx context.Context, args []string) int

func main() { os.Exit(run(context.Background(), os.Args, os.Stderr)) }

func run(ctx context.Context, args []string, stderr io.Writer) int {
	name := filepath.Base(args[0])
	a, ok := applets[name]
	if !ok && len(args) > 1 {
		args = args[1:]
		name = args[0]
		a, ok = applets[name]
	}
	if !ok {
		fmt.Fprintf(stderr, "ropes-node: no program called %q; there are: %s\n", name, strings.Join(names(), " "))
		return 2
	}
	// Every component parses os.Args by itself.
	os.Args = args
	return a(ctx, args)
}

func names() []string {
	var out []string
	for n := range applets {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}
