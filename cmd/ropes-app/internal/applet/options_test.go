package applet

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type parsed struct {
	All      bool
	Lines    int
	Headers  []string
	Operands []string
}

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		args string
		stop bool
		want parsed
		err  string
	}{
		{args: "a b", want: parsed{Operands: []string{"a", "b"}}},
		{args: "-a x", want: parsed{All: true, Operands: []string{"x"}}},
		{args: "x --all", want: parsed{All: true, Operands: []string{"x"}}},
		{args: "-an5", want: parsed{All: true, Lines: 5}},
		{args: "-n 5 -H a -H b", want: parsed{Lines: 5, Headers: []string{"a", "b"}}},
		{args: "--lines=5 --lines 6", want: parsed{Lines: 6}},
		{args: "- -- -a", want: parsed{Operands: []string{"-", "-a"}}},
		{args: "x -a", stop: true, want: parsed{Operands: []string{"x", "-a"}}},
		{args: "-z", err: "unknown option -z"},
		{args: "-az", err: "unknown option -z"},
		{args: "--zebra=1", err: "unknown option --zebra"},
		{args: "--a", err: "unknown option --a"},
		{args: "--all=1", err: "option --all takes no value"},
		{args: "-n", err: "option -n needs a value"},
		{args: "--lines", err: "option --lines needs a value"},
		{args: "-n x", err: `option -n: "x" is not a whole number`},
	} {
		t.Run(tc.args, func(t *testing.T) {
			var got parsed
			o := Options{StopAtOperand: tc.stop}
			o.Bool(&got.All, "a all")
			o.Int(&got.Lines, "n lines")
			o.Strings(&got.Headers, "H header")
			var err error
			got.Operands, err = o.Parse(strings.Fields(tc.args))
			if tc.err != "" {
				if err == nil || err.Error() != tc.err {
					t.Fatalf("err = %v, want %s", err, tc.err)
				}
				if strings.HasPrefix(tc.err, "unknown") != errors.Is(err, ErrUnknownOption) {
					t.Error("ErrUnknownOption is not told apart")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCall(t *testing.T) {
	c := &Call{Dir: "/data", Environ: []string{"A=1", "A=2"}}
	for name, want := range map[string]string{"/etc/hosts": "/etc/hosts", "x": "/data/x", "../y": "/y"} {
		if got := c.Path(name); got != want {
			t.Errorf("Path(%s) = %s, want %s", name, got, want)
		}
	}
	if c.Getenv("A") != "2" || c.Getenv("B") != "" {
		t.Errorf("A=%q B=%q", c.Getenv("A"), c.Getenv("B"))
	}
}
