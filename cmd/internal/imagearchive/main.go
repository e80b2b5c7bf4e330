// Command imagearchive writes images made from an unpacked payload as one archive, as
// `ctr images import` reads it: imagearchive PAYLOAD-DIR [IMAGE...] >FILE.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/ropes-dev/ropes/bootstrap/images"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: imagearchive PAYLOAD-DIR [IMAGE...] >FILE")
		os.Exit(2)
	}
	if err := images.New(os.Args[1], slog.New(slog.DiscardHandler)).WriteArchive(context.Background(), os.Stdout, os.Args[2:]...); err != nil {
		fmt.Fprintln(os.Stderr, "imagearchive:", err)
		os.Exit(1)
	}
}
