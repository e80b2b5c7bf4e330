package istio

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	_ "unsafe" // for go:linkname

	"istio.io/istio/operator/pkg/util/clog"
	"istio.io/istio/operator/pkg/util/progress"
	istiolog "istio.io/istio/pkg/log"
)

// logger hands what the operator says to slog.
type logger struct {
	log *slog.Logger
}

var _ clog.Logger = (*logger)(nil)

func newLogger(log *slog.Logger) *logger { return &logger{log: log} }

func (l *logger) info(s string) { l.log.Info(strings.TrimSpace(s)) }
func (l *logger) warn(s string) { l.log.Warn(strings.TrimSpace(s)) }

// Print implements clog.Logger, as do the others.
func (l *logger) Print(s string)                  { l.info(s) }
func (l *logger) PrintErr(s string)               { l.warn(s) }
func (l *logger) LogAndPrint(v ...any)            { l.info(fmt.Sprint(v...)) }
func (l *logger) LogAndPrintf(f string, v ...any) { l.info(fmt.Sprintf(f, v...)) }
func (l *logger) LogAndError(v ...any)            { l.warn(fmt.Sprint(v...)) }
func (l *logger) LogAndErrorf(f string, v ...any) { l.warn(fmt.Sprintf(f, v...)) }
func (l *logger) LogAndFatal(v ...any)            { l.log.Error(fmt.Sprint(v...)) }
func (l *logger) LogAndFatalf(f string, v ...any) { l.log.Error(fmt.Sprintf(f, v...)) }

// quietly runs fn with all of Istio's own logging off. It goes to stdout otherwise, and
// brings along whatever the standard log package, klog and zap are told by anybody:
// Istio's log package takes these over as soon as it is linked in.
func quietly(fn func() error) error {
	installationMu.Lock()
	defer installationMu.Unlock()
	for _, scope := range istiolog.Scopes() {
		level := scope.GetOutputLevel()
		scope.SetOutputLevel(istiolog.NoneLevel)
		defer scope.SetOutputLevel(level)
	}
	return fn()
}

// installationMu guards what is global to the process: the levels of Istio's logging and
// the writer of the operator's progress.
var installationMu sync.Mutex

// progressWriter is where the operator's progress bars write. They write to stderr
// otherwise, which belongs to the program, and offer no other way to say so.
//
//go:linkname progressWriter istio.io/istio/operator/pkg/util/progress.testWriter
var progressWriter *io.Writer

// withProgress runs fn with a progress log whose lines go to log. It is for use in quietly.
func withProgress(log *slog.Logger, fn func(*progress.Log) error) error {
	r, pipe := io.Pipe()
	var out io.Writer = pipe
	before := progressWriter
	progressWriter = &out
	defer func() { progressWriter = before }()

	drained := make(chan struct{})
	go func() {
		defer close(drained)
		lines := bufio.NewScanner(r)
		for lines.Scan() {
			if line := strings.TrimSpace(lines.Text()); line != "" {
				log.Debug(line)
			}
		}
		// A line too long for the scanner must not hold up whoever writes it.
		_, _ = io.Copy(io.Discard, r)
	}()
	err := fn(progress.NewLog())
	_ = pipe.Close() // never fails
	<-drained
	return err
}
