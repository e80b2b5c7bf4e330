// Command nft stands before the real nft in the image of kube-proxy: it shortens comments
// that nftables refuses for their length, and hands everything on.
//
// kube-proxy v1.36 writes a Service port's full name into a comment. A name of more than 128
// bytes, which Kubernetes allows, makes nft refuse the whole transaction, and every Service of
// the cluster stands still (kubernetes/kubernetes#139515, mended in a later release).
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"syscall"
)

// The real program, and how long it lets a comment be, in bytes.
const (
	realNFT    = "/sbin/nft"
	maxComment = 128
)

func main() { os.Exit(run(realNFT, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

func run(program string, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if !readsStdin(args) {
		err := syscall.Exec(program, append([]string{"nft"}, args...), os.Environ())
		fmt.Fprintf(stderr, "nft: %s: %v\n", program, err)
		return 1
	}
	script, err := io.ReadAll(stdin)
	if err != nil {
		fmt.Fprintln(stderr, "nft: read standard input:", err)
		return 1
	}
	cmd := exec.Command(program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(shorten(script)), stdout, stderr
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	default:
		fmt.Fprintln(stderr, "nft:", err)
		return 1
	}
}

// readsStdin tells whether the commands come from standard input: -f -.
func readsStdin(args []string) bool {
	i := slices.IndexFunc(args, func(a string) bool { return a == "-f" || a == "--file" })
	return i >= 0 && i+1 < len(args) && args[i+1] == "-"
}

var comment = regexp.MustCompile(`comment "[^"\n]*"`)

// shorten cuts what is too long out of every comment's end.
func shorten(script []byte) []byte {
	const before, ellipsis = len(`comment "`), "..."
	return comment.ReplaceAllFunc(script, func(c []byte) []byte {
		if len(c)-before-1 <= maxComment {
			return c
		}
		return append(slices.Clone(c[:before+maxComment-len(ellipsis)]), ellipsis+`"`...)
	})
}
