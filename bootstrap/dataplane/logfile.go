package dataplane

import (
	"bytes"
	"io"
	"log/slog"
	"sync"
	"time"
)

const (
	// flushAt is how many bytes of lines are written without waiting for the next flush.
	flushAt = 64 << 10
	// maxBuffered bounds the bytes of lines that wait for a reader who does not read.
	maxBuffered = 16 << 20
	// closeWait is how long a file that takes nothing may hold up the end.
	closeWait = time.Second
)

// logFile is a file of log lines. Writing to it may last: standard output is a pipe to the
// container runtime, which waits for its disk. So one goroutine of its own writes, as in
// Envoy, and requests never wait; lines are dropped, and counted, once too many wait.
type logFile struct {
	out  io.WriteCloser
	log  *slog.Logger
	wake chan struct{} // there is enough to write
	stop chan struct{}
	done chan struct{}

	writing sync.Mutex // one write at a time; taken before mu
	mu      sync.Mutex // of what follows, never held while out is written to
	buf     *bytes.Buffer
	spare   *bytes.Buffer
	dropped int
}

func newLogFile(out io.WriteCloser, every time.Duration, log *slog.Logger) *logFile {
	f := &logFile{
		out: out, log: log, wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
		buf: &bytes.Buffer{}, spare: &bytes.Buffer{},
	}
	go f.run(every)
	return f
}

func (f *logFile) run(every time.Duration) {
	defer close(f.done)
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-f.wake:
		case <-f.stop:
			f.flush()
			return
		}
		f.flush()
	}
}

// write adds a line to what is to be written.
func (f *logFile) write(line []byte) {
	f.mu.Lock()
	if f.buf.Len()+len(line) > maxBuffered {
		f.dropped++
		f.mu.Unlock()
		return
	}
	f.buf.Write(line)
	enough := f.buf.Len() >= flushAt
	f.mu.Unlock()
	if enough {
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
}

// flush writes what there is, and returns when the file has taken it.
func (f *logFile) flush() {
	f.writing.Lock()
	defer f.writing.Unlock()
	f.mu.Lock()
	full, dropped := f.buf, f.dropped
	f.buf, f.spare, f.dropped = f.spare, nil, 0
	f.mu.Unlock()
	if full.Len() > 0 {
		if _, err := f.out.Write(full.Bytes()); err != nil {
			f.log.Warn("write access log", "err", err)
		}
	}
	if dropped > 0 {
		f.log.Warn("the access log was not taken in time", "dropped_lines", dropped)
	}
	if full.Cap() > 4*flushAt { // what a long wait has left
		full = &bytes.Buffer{}
	}
	full.Reset()
	f.mu.Lock()
	f.spare = full
	f.mu.Unlock()
}

// close writes what there is, for as long as closeWait.
func (f *logFile) close() {
	close(f.stop)
	select {
	case <-f.done:
	case <-time.After(closeWait):
	}
	_ = f.out.Close()
}
