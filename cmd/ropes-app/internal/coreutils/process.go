package coreutils

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
)

// ps shows all processes of the PID namespace, whichever of the usual letters it is given.
func ps(_ context.Context, call *applet.Call) int {
	for _, a := range call.Args {
		if letters := strings.TrimPrefix(a, "-"); letters == "" || strings.Trim(letters, "aAefuxwl") != "" {
			return call.Misused(fmt.Errorf("%w %s", applet.ErrUnknownOption, a))
		}
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return call.Fail(err)
	}
	rows := [][]string{{"PID", "PPID", "USER", "STAT", "RSS", "COMMAND"}}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err == nil {
			if row, err := process(e.Name()); err == nil { // else it has ended by now
				rows = append(rows, row)
			}
		}
	}
	slices.SortFunc(rows[1:], func(a, b []string) int {
		x, _ := strconv.Atoi(a[0]) // a number, as seen above
		y, _ := strconv.Atoi(b[0])
		return x - y
	})
	return buffered(call, func(w *bufio.Writer) int {
		align(w, rows)
		return applet.OK
	})
}

func process(pid string) ([]string, error) {
	b, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return nil, err
	}
	field := map[string]string{}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		if words := strings.Fields(value); len(words) > 0 {
			field[name] = words[0]
		}
	}
	cmd, err := os.ReadFile("/proc/" + pid + "/cmdline")
	if err != nil {
		return nil, err
	}
	command := string(bytes.TrimRight(bytes.ReplaceAll(cmd, []byte{0}, []byte{' '}), " "))
	if command == "" {
		command = "[" + field["Name"] + "]"
	}
	rss, _ := strconv.ParseInt(field["VmRSS"], 10, 64) // kernel threads have none
	return []string{pid, field["PPid"], userName(field["Uid"]), field["State"], humanBytes(rss * 1024), command}, nil
}

func sha256sum(ctx context.Context, call *applet.Call) int {
	var opts applet.Options
	var check, quiet bool
	opts.Bool(&check, "c check")
	opts.Bool(&quiet, "quiet status")
	opts.Ignore("b t")
	names, status := options(call, &opts)
	if status != applet.OK {
		return status
	}
	if check {
		return checkSums(ctx, call, names, quiet)
	}
	return eachInput(ctx, call, names, func(name string, r io.Reader) error {
		sum, err := sumOf(r)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(call.Out, "%s  %s\n", sum, name)
		return err
	})
}

func sumOf(r io.Reader) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func checkSums(ctx context.Context, call *applet.Call, names []string, quiet bool) int {
	bad, good := 0, 0
	status := eachInput(ctx, call, names, func(_ string, r io.Reader) error {
		return eachLine(r, func(line []byte) error {
			want, name, ok := strings.Cut(strings.TrimRight(string(line), "\n"), " ")
			if !ok || len(want) != 2*sha256.Size || len(name) < 2 {
				return errors.New("not a list of sums")
			}
			name = name[1:] // the second blank, or the asterisk of binary mode
			var got string
			err := withInput(call, name, func(_ string, r io.Reader) (err error) { got, err = sumOf(r); return err })
			switch {
			case err != nil:
				bad++
				call.Errorf("%s: %v", name, reason(err))
			case got != strings.ToLower(want):
				bad++
				fmt.Fprintf(call.Out, "%s: FAILED\n", name)
			default:
				good++
				if !quiet {
					fmt.Fprintf(call.Out, "%s: OK\n", name)
				}
			}
			return nil
		})
	})
	if status == applet.OK && (bad > 0 || good == 0) {
		status = applet.Failure
	}
	return status
}
