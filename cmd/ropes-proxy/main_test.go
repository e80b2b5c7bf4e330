package main

import (
	"context"
	"strings"
	"testing"
)

func TestRunPicksTheProgramByName(t *testing.T) {
	for _, tc := range []struct {
		args []string
		code int
		out  string
	}{
		{[]string{"/usr/local/bin/envoy", "--version"}, 0, "envoy  version:"},
		{[]string{"ropes-proxy", "envoy", "--version"}, 0, "envoy  version:"},
		{[]string{"envoy", "--bogus"}, 2, ""},
	} {
		var out, errs strings.Builder
		if code := run(context.Background(), tc.args, &out, &errs); code != tc.code || !strings.Contains(out.String(), tc.out) {
			t.Errorf("%v: code %d, %q %q", tc.args, code, out.String(), errs.String())
		}
	}
}
