package dataplane

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/admin"
)

// Options are what the command line says, and Loggers, which go with the logger.
type Options struct {
	ConfigPath    string
	ConfigYAML    string
	DrainTime     time.Duration
	FlushInterval time.Duration
	LogLevel      string
	Loggers       *admin.Loggers // their levels are in force, for the admin port to change; nil for a fixed logger
	ComponentLog  string
	Concurrency   int // 0: as many as the machine has
	Version       bool
	Args          []string
}

var errHelp = errors.New("help requested")

// withValue are Envoy's flags that take a value; those whose function is nil are accepted without effect.
var withValue = map[string]func(*Options, string) error{
	"-c": setConfig, "--config-path": setConfig,
	"--config-yaml":              func(o *Options, v string) error { o.ConfigYAML = v; return nil },
	"--drain-time-s":             func(o *Options, v string) error { return seconds(&o.DrainTime, v, time.Second) },
	"--file-flush-interval-msec": func(o *Options, v string) error { return seconds(&o.FlushInterval, v, time.Millisecond) },
	"-l":                         setLevel, "--log-level": setLevel,
	"--component-log-level": func(o *Options, v string) error { o.ComponentLog = v; return nil },
	"--concurrency": func(o *Options, v string) (err error) {
		o.Concurrency, err = strconv.Atoi(v)
		return err
	},
	"--drain-strategy": nil, "--local-address-ip-version": nil, "--parent-shutdown-time-s": nil, "--base-id": nil,
	"--restart-epoch": nil, "--log-format": nil, "--log-path": nil, "--service-node": nil, "--service-cluster": nil,
	"--service-zone": nil, "--mode": nil, "--admin-address-path": nil, "--file-flush-min-size-kb": nil,
}

var bare = map[string]bool{
	"--disable-hot-restart": true, "--allow-unknown-static-fields": true, "--allow-unknown-fields": true,
	"--reject-unknown-dynamic-fields": true, "--ignore-unknown-dynamic-fields": true, "--skip-deprecated-logs": true,
	"--enable-core-dump": true, "--cpuset-threads": true, "--enable-fine-grain-logging": true,
	"--enable-mutex-tracing": true, "--log-format-escaped": true, "--use-dynamic-base-id": true,
}

func setConfig(o *Options, v string) error { o.ConfigPath = v; return nil }
func setLevel(o *Options, v string) error  { o.LogLevel = v; return nil }

func seconds(d *time.Duration, v string, unit time.Duration) error {
	n, err := strconv.Atoi(v)
	if err != nil {
		return err
	}
	*d = time.Duration(n) * unit
	return nil
}

// ParseArgs reads Envoy's command line without the program name. Unknown flags are errors.
func ParseArgs(args []string) (Options, error) {
	o := Options{DrainTime: 600 * time.Second, FlushInterval: 10 * time.Second, LogLevel: "info", Args: args}
	for i := 0; i < len(args); i++ {
		name, value, inline := strings.Cut(args[i], "=")
		if !strings.HasPrefix(args[i], "--") {
			name, value, inline = args[i], "", false
		}
		switch {
		case name == "--version":
			o.Version = true
			continue
		case name == "-h" || name == "--help":
			return o, errHelp
		case bare[name]:
			continue
		}
		set, known := withValue[name]
		if !known {
			return o, fmt.Errorf("unknown argument %q", args[i])
		}
		if !inline {
			i++
			if i >= len(args) {
				return o, fmt.Errorf("%s wants a value", name)
			}
			value = args[i]
		}
		if set == nil {
			continue
		}
		if err := set(&o, value); err != nil {
			return o, fmt.Errorf("%s: %w", name, err)
		}
	}
	if !o.Version && o.ConfigPath == "" && o.ConfigYAML == "" {
		return o, errors.New("no configuration: -c FILE or --config-yaml TEXT")
	}
	return o, nil
}

func usage(w io.Writer) {
	_, _ = io.WriteString(w, "usage: envoy -c FILE [--config-yaml JSON] [--drain-time-s N] [-l LEVEL] [--concurrency N]\n"+
		"The ropes data plane: a proxy for Istio that takes Envoy's command line, bootstrap and xDS.\n")
}
