package coreutils

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
)

func verum(context.Context, *applet.Call) int  { return applet.OK }
func falsum(context.Context, *applet.Call) int { return applet.Failure }

func echo(_ context.Context, call *applet.Call) int {
	args, end, escapes := call.Args, "\n", false
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' && strings.Trim(args[0][1:], "neE") == "" {
		if strings.Contains(args[0], "n") {
			end = ""
		}
		escapes = strings.LastIndexByte(args[0], 'e') > strings.LastIndexByte(args[0], 'E')
		args = args[1:]
	}
	text := strings.Join(args, " ")
	if escapes {
		text = strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\t`, "\t", `\r`, "\r", `\a`, "\a", `\b`, "\b", `\v`, "\v", `\f`, "\f", `\e`, "\x1b", `\0`, "\x00").Replace(text)
	}
	if _, err := fmt.Fprint(call.Out, text, end); err != nil {
		return applet.Failure
	}
	return applet.OK
}

func sleep(ctx context.Context, call *applet.Call) int {
	var opts applet.Options
	args, status := options(call, &opts)
	if status != applet.OK {
		return status
	}
	if len(args) == 0 {
		return call.Misused(errors.New("for how long?"))
	}
	var total time.Duration
	for _, a := range args {
		d, err := interval(a)
		if err != nil {
			return call.Misused(err)
		}
		total += d
		if d == forever {
			<-ctx.Done()
			return applet.Ended(ctx)
		}
	}
	select {
	case <-time.After(total):
		return applet.OK
	case <-ctx.Done():
		return applet.Ended(ctx)
	}
}

// forever is what `sleep infinity` waits.
const forever = time.Duration(-1)

// interval reads 10, 1.5, 10s, 2m, 1h, 1d or infinity.
func interval(s string) (time.Duration, error) {
	if s == "infinity" || s == "inf" {
		return forever, nil
	}
	units := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour}
	number, unit := s, time.Second
	if s != "" {
		if u, ok := units[s[len(s)-1]]; ok {
			number, unit = s[:len(s)-1], u
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || n < 0 || n != n || n*float64(unit) > float64(1<<62) {
		return 0, fmt.Errorf("%q is not a time such as 10, 1.5s, 2m or infinity", s)
	}
	return time.Duration(n * float64(unit)), nil
}

func hostname(ctx context.Context, call *applet.Call) int {
	var opts applet.Options
	var short, addresses bool
	opts.Bool(&short, "s short")
	opts.Bool(&addresses, "i I ip-address all-ip-addresses")
	args, status := options(call, &opts)
	if status != applet.OK {
		return status
	}
	if len(args) > 0 {
		return call.Misused(errors.New("setting the name is not supported"))
	}
	name, err := os.Hostname()
	if err != nil {
		return call.Fail(err)
	}
	switch {
	case addresses:
		addrs, err := net.InterfaceAddrs()
		if err != nil {
			return call.Fail(err)
		}
		var ips []string
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
				ips = append(ips, n.IP.String())
			}
		}
		fmt.Fprintln(call.Out, strings.Join(ips, " "))
	case short:
		name, _, _ = strings.Cut(name, ".")
		fmt.Fprintln(call.Out, name)
	default:
		fmt.Fprintln(call.Out, name)
	}
	return applet.OK
}

func id(_ context.Context, call *applet.Call) int {
	var opts applet.Options
	var uid, gid, groups, names bool
	opts.Bool(&uid, "u user")
	opts.Bool(&gid, "g group")
	opts.Bool(&groups, "G groups")
	opts.Bool(&names, "n name")
	opts.Ignore("r")
	args, status := options(call, &opts)
	if status != applet.OK {
		return status
	}
	if len(args) > 0 {
		return call.Misused(errors.New("other users are not supported"))
	}
	all, err := os.Getgroups()
	if err != nil {
		return call.Fail(err)
	}
	if !slices.Contains(all, os.Getegid()) {
		all = append([]int{os.Getegid()}, all...)
	}
	show := func(n int, name func(string) string) string {
		if names {
			return name(strconv.Itoa(n))
		}
		return strconv.Itoa(n)
	}
	full := func(n int, name func(string) string) string {
		s := strconv.Itoa(n)
		if known := name(s); known != s {
			s += "(" + known + ")"
		}
		return s
	}
	list := func(one func(int, func(string) string) string, sep string) string {
		var out []string
		for _, g := range all {
			out = append(out, one(g, groupName))
		}
		return strings.Join(out, sep)
	}
	switch {
	case uid:
		fmt.Fprintln(call.Out, show(os.Geteuid(), userName))
	case gid:
		fmt.Fprintln(call.Out, show(os.Getegid(), groupName))
	case groups:
		fmt.Fprintln(call.Out, list(show, " "))
	case names:
		return call.Misused(errors.New("-n goes with -u, -g or -G"))
	default:
		fmt.Fprintf(call.Out, "uid=%s gid=%s groups=%s\n", full(os.Geteuid(), userName), full(os.Getegid(), groupName), list(full, ","))
	}
	return applet.OK
}

// signals that kill knows by name.
var signals = []string{"HUP", "INT", "QUIT", "KILL", "USR1", "USR2", "TERM", "CONT", "STOP"}

func kill(_ context.Context, call *applet.Call) int {
	args, sig := call.Args, syscall.SIGTERM
	if len(args) > 0 && args[0] == "-l" {
		fmt.Fprintln(call.Out, strings.Join(signals, " "))
		return applet.OK
	}
	if len(args) > 1 && strings.HasPrefix(args[0], "-") && args[0] != "--" {
		name := strings.TrimPrefix(args[0], "-")
		args = args[1:]
		if name == "s" {
			name, args = args[0], args[1:]
		}
		var ok bool
		if sig, ok = signalOf(name); !ok {
			return call.Misused(fmt.Errorf("unknown signal %s", name))
		}
	}
	if len(args) == 0 {
		return call.Misused(errors.New("usage: kill [-SIGNAL] PID [PID...]"))
	}
	status := applet.OK
	for _, a := range args {
		pid, err := strconv.Atoi(a)
		if err != nil {
			return call.Misused(fmt.Errorf("%q is not a process number", a))
		}
		if err := syscall.Kill(pid, sig); err != nil {
			call.Errorf("%d: %v", pid, err)
			status = applet.Failure
		}
	}
	return status
}

func signalOf(name string) (syscall.Signal, bool) {
	if n, err := strconv.Atoi(name); err == nil {
		return syscall.Signal(n), n >= 0 && n < 65
	}
	name = strings.TrimPrefix(strings.ToUpper(name), "SIG")
	if !slices.Contains(signals, name) {
		return 0, false
	}
	return unix.SignalNum("SIG" + name), true
}

// Env is the program env, which starts others through run.
func Env(run applet.Func) applet.Func {
	return func(ctx context.Context, call *applet.Call) int {
		opts := applet.Options{StopAtOperand: true}
		var empty bool
		var unset []string
		opts.Bool(&empty, "i ignore-environment")
		opts.Strings(&unset, "u unset")
		args, status := options(call, &opts)
		if status != applet.OK {
			return status
		}
		environ := call.Environ
		if empty {
			environ = nil
		}
		environ = slices.DeleteFunc(slices.Clone(environ), func(kv string) bool {
			name, _, _ := strings.Cut(kv, "=")
			return slices.Contains(unset, name)
		})
		for len(args) > 0 && strings.Contains(args[0], "=") {
			environ = append(environ, args[0])
			args = args[1:]
		}
		environ = lastWins(environ)
		if len(args) == 0 {
			for _, kv := range environ {
				fmt.Fprintln(call.Out, kv)
			}
			return applet.OK
		}
		inner := *call
		inner.Name, inner.Args, inner.Environ = args[0], args[1:], environ
		return run(ctx, &inner)
	}
}

// lastWins drops all but the last setting of each variable, in the order of the first.
func lastWins(environ []string) []string {
	at := map[string]int{}
	var out []string
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		if i, ok := at[name]; ok {
			out[i] = kv
			continue
		}
		at[name] = len(out)
		out = append(out, kv)
	}
	return out
}
