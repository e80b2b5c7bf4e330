// Package shell is the program sh: mvdan.cc/sh's interpreter with the toolbox built in. It
// knows how a script reaches the interpreter and how a person types at it; the language
// itself is the interpreter's.
package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/term"
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"

	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
)

// notFound is POSIX's exit status for a command, or script, that is not there.
const notFound = 127

// shell is one running sh.
type shell struct {
	call    *applet.Call
	applets map[string]applet.Func
	runner  *interp.Runner
	script  string // of -c
	hasC    bool
	params  []string // -e, -u and so on, then -- and $1...
	name    string   // $0
	file    string   // script to read; empty: standard input
	prompts bool
}

// New returns the program sh, which runs the given programs inside its own process where
// they are called by their bare names.
func New(applets map[string]applet.Func) applet.Func {
	return func(ctx context.Context, call *applet.Call) int {
		s := &shell{call: call, applets: applets}
		if err := s.parseArgs(); err != nil {
			return call.Misused(err)
		}
		if err := s.start(); err != nil {
			return call.Misused(err)
		}
		return s.run(ctx)
	}
}

func (s *shell) parseArgs() error {
	opts := applet.Options{StopAtOperand: true}
	flag := func(name string) { opts.Func(name, func() { s.params = append(s.params, "-"+name) }) }
	for _, name := range []string{"e", "u", "x", "n", "f", "a"} {
		flag(name)
	}
	opts.Value("o", func(v string) error { s.params = append(s.params, "-o", v); return nil })
	opts.Bool(&s.hasC, "c")
	opts.Bool(&s.prompts, "i")
	opts.Ignore("s l")
	args, err := opts.Parse(s.call.Args)
	if err != nil {
		return err
	}
	s.name = s.call.Name
	switch {
	case s.hasC && len(args) == 0:
		return errors.New("-c needs a script")
	case s.hasC:
		s.script, args = args[0], args[1:]
		if len(args) > 0 {
			s.name, args = args[0], args[1:]
		}
	case len(args) > 0:
		s.file, s.name, args = args[0], args[0], args[1:]
	default:
		f, ok := applet.Beneath(s.call.In).(*os.File)
		s.prompts = s.prompts || ok && term.IsTerminal(int(f.Fd()))
	}
	s.params = append(append(s.params, "--"), args...)
	return nil
}

func (s *shell) start() (err error) {
	dir := s.call.Dir
	if dir == "" {
		if dir, err = os.Getwd(); err != nil {
			dir = "/"
		}
	}
	s.runner, err = interp.New(
		interp.Env(expand.ListEnviron(s.call.Environ...)),
		interp.Dir(dir),
		interp.Params(s.params...),
		interp.Interactive(s.prompts),
		interp.StdIO(applet.Beneath(s.call.In), s.call.Out, s.call.Err),
		interp.CallHandler(s.rename),
		interp.ExecHandlers(s.exec),
	)
	return err
}

// ownKill stands for the word kill, which the interpreter would take for a builtin that
// it does not have.
const ownKill = "\x00kill"

func (s *shell) rename(_ context.Context, args []string) ([]string, error) {
	if _, ok := s.applets[args[0]]; ok && args[0] == "kill" {
		args = append([]string{ownKill}, args[1:]...)
	}
	return args, nil
}

// exec runs a program of the toolbox within this process, and leaves all others to next.
func (s *shell) exec(next interp.ExecHandlerFunc) interp.ExecHandlerFunc {
	return func(ctx context.Context, args []string) error {
		name := strings.TrimPrefix(args[0], "\x00")
		fn, ok := s.applets[name]
		if !ok {
			return next(ctx, args)
		}
		hc := interp.HandlerCtx(ctx)
		call := &applet.Call{Name: name, Args: args[1:], In: strings.NewReader(""), Out: hc.Stdout, Err: hc.Stderr, Dir: hc.Dir, Environ: exported(hc.Env)}
		switch in := hc.Stdin.(type) {
		case nil:
		case *os.File:
			if in != nil {
				call.In = applet.Interruptible(ctx, in)
			}
		default:
			call.In = in
		}
		status := fn(ctx, call)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if status == applet.OK {
			return nil // the interpreter takes any error for a failure
		}
		return interp.ExitStatus(status)
	}
}

func exported(env expand.Environ) []string {
	var out []string
	for name, v := range env.Each {
		if v.Exported && v.Kind == expand.String {
			out = append(out, name+"="+v.String())
		}
	}
	return out
}

func (s *shell) run(ctx context.Context) int {
	if s.prompts {
		return s.interact(ctx)
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	switch {
	case s.hasC:
		return s.whole(ctx, strings.NewReader(s.script), s.name)
	case s.file != "":
		f, err := os.Open(s.call.Path(s.file))
		if err != nil {
			s.call.Errorf("%v", err)
			return notFound
		}
		defer f.Close()
		return s.whole(ctx, f, s.file)
	}
	return s.stream(ctx)
}

// whole runs a script that can be read at once.
func (s *shell) whole(ctx context.Context, r io.Reader, name string) int {
	prog, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(r, name)
	if err != nil {
		return s.call.Misused(err)
	}
	return s.status(ctx, s.runner.Run(ctx, prog))
}

// stream runs standard input statement by statement, so that what is typed at a pipe is
// answered at once.
func (s *shell) stream(ctx context.Context) int {
	last := applet.OK
	for stmt, err := range syntax.NewParser(syntax.Variant(syntax.LangBash)).StmtsSeq(byteReader{s.call.In}) {
		if ctx.Err() != nil {
			return applet.Ended(ctx)
		}
		if err != nil {
			return s.call.Misused(err)
		}
		last = s.status(ctx, s.runner.Run(ctx, stmt))
		if s.runner.Exited() {
			break
		}
	}
	return last
}

// byteReader reads no further than it must: what the script does not need is left for the
// commands in it.
type byteReader struct{ io.Reader }

func (r byteReader) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(1, len(p))]) }

// status tells what a run of the interpreter came to.
func (s *shell) status(ctx context.Context, err error) int {
	var exit interp.ExitStatus
	switch {
	case err == nil:
		return applet.OK
	case errors.As(err, &exit):
		return int(exit)
	case ctx.Err() != nil:
		return applet.Ended(ctx)
	}
	return s.call.Fail(err)
}

// interact reads lines until the end of input or `exit`. SIGINT ends the command that runs,
// not the shell.
func (s *shell) interact(ctx context.Context) int {
	lines := s.lines(ctx)
	parser := syntax.NewParser(syntax.Variant(syntax.LangBash))
	last, source := applet.OK, ""
	for {
		prompt := s.prompt()
		if source != "" {
			prompt = "> "
		}
		line, err := lines(prompt)
		if err != nil {
			if source != "" {
				s.call.Errorf("unexpected end of input")
				return applet.Usage
			}
			fmt.Fprintln(s.call.Out)
			return last
		}
		source += line + "\n"
		prog, err := parser.Parse(strings.NewReader(source), "")
		if syntax.IsIncomplete(err) || strings.HasSuffix(line, `\`) {
			continue
		}
		source = ""
		if err != nil {
			last = s.call.Misused(err)
			continue
		}
		for _, stmt := range prog.Stmts {
			var exited, interrupted bool
			last, exited, interrupted = s.statement(ctx, stmt)
			if exited || ctx.Err() != nil {
				return last
			}
			if interrupted {
				break
			}
		}
	}
}

// statement runs one statement. To the interpreter, an interrupt is an exit.
func (s *shell) statement(ctx context.Context, stmt *syntax.Stmt) (status int, exited, interrupted bool) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	status = s.status(ctx, s.runner.Run(ctx, stmt))
	interrupted = ctx.Err() != nil
	return status, s.runner.Exited() && !interrupted, interrupted
}

func (s *shell) prompt() string {
	if p, ok := s.runner.Vars["PS1"]; ok && p.String() != "" {
		return p.String()
	}
	sign := "$"
	if os.Geteuid() == 0 {
		sign = "#"
	}
	return s.runner.Dir + " " + sign + " "
}

// lines returns what asks for a line: at a terminal with editing and history, else without.
func (s *shell) lines(ctx context.Context) func(prompt string) (string, error) {
	tty, ok := applet.Beneath(s.call.In).(*os.File)
	if !ok || !term.IsTerminal(int(tty.Fd())) {
		return s.plainLines()
	}
	signal.Ignore(syscall.SIGTTOU, syscall.SIGTSTP) // there are no jobs to stop
	t := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{interruptKey{applet.Interruptible(ctx, tty)}, s.call.Out}, "")
	return func(prompt string) (string, error) {
		was, err := term.MakeRaw(int(tty.Fd()))
		if err != nil {
			return "", err
		}
		if w, h, err := term.GetSize(int(tty.Fd())); err == nil && w > 0 && h > 0 {
			_ = t.SetSize(w, h) // a wrong size only wraps badly
		}
		t.SetPrompt(prompt)
		line, err := t.ReadLine()
		return line, errors.Join(err, term.Restore(int(tty.Fd()), was))
	}
}

// plainLines reads byte by byte, so that a command finds the rest of the input.
func (s *shell) plainLines() func(string) (string, error) {
	return func(prompt string) (string, error) {
		fmt.Fprint(s.call.Out, prompt)
		var line []byte
		for b := make([]byte, 1); ; {
			n, err := s.call.In.Read(b)
			if n > 0 && b[0] == '\n' {
				return string(line), nil
			}
			if n > 0 {
				line = append(line, b[0])
			}
			if err != nil && len(line) > 0 && errors.Is(err, io.EOF) {
				return string(line), nil
			}
			if err != nil {
				return "", err
			}
		}
	}
}

// interruptKey makes Ctrl-C at the prompt drop the line: the terminal, being raw, sends it
// as a key, which the line editor would take for the end of input.
type interruptKey struct{ io.Reader }

func (k interruptKey) Read(p []byte) (int, error) {
	const ctrlC, ctrlU, enter = 3, 21, '\r'
	if len(p) < 2 {
		return k.Reader.Read(p)
	}
	n, err := k.Reader.Read(p[:len(p)/2])
	for i := 0; i < n; i++ {
		if p[i] == ctrlC {
			copy(p[i+2:n+1], p[i+1:n])
			p[i], p[i+1] = ctrlU, enter
			n++
			i++
		}
	}
	return n, err
}
