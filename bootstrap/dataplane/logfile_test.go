package dataplane

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// slowFile takes what is written when it is let.
type slowFile struct {
	let chan struct{}
	got bytes.Buffer
}

func (s *slowFile) Write(p []byte) (int, error) {
	<-s.let
	return s.got.Write(p)
}

func (s *slowFile) Close() error { return nil }

func TestLogFileThatTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &slowFile{let: make(chan struct{})}
		var said bytes.Buffer
		f := newLogFile(out, time.Second, slog.New(slog.NewTextHandler(&said, nil)))
		line := []byte(strings.Repeat("x", 1023) + "\n")
		began := time.Now()
		for range 2*maxBuffered/len(line) + 2*flushAt/len(line) {
			f.write(line)
		}
		if time.Since(began) > 0 {
			t.Error("a request waited for the log")
		}
		synctest.Wait() // the first flush is under way
		close(out.let)
		f.close()
		if n := out.got.Len(); n < maxBuffered-len(line) || n%len(line) != 0 {
			t.Errorf("%d bytes were written, of whole lines of %d and nearly %d at least", n, len(line), maxBuffered)
		}
		if !strings.Contains(said.String(), "dropped_lines=") {
			t.Errorf("nothing is said of dropped lines: %s", said.String())
		}
	})
}

func TestLogFileThatNeverTakesAnything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &slowFile{let: make(chan struct{})}
		f := newLogFile(out, time.Second, slog.New(slog.DiscardHandler))
		f.write([]byte("line\n"))
		began := time.Now()
		f.close()
		if took := time.Since(began); took != closeWait {
			t.Errorf("the end took %s, want %s", took, closeWait)
		}
		close(out.let)
	})
}

func TestLogFileKeepsTheOrder(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	f := newLogFile(w, time.Millisecond, slog.New(slog.DiscardHandler))
	var want strings.Builder
	go func() {
		for i := range 20000 {
			line := strings.Repeat("x", i%97) + "\n"
			want.WriteString(line)
			f.write([]byte(line))
			if i%1000 == 0 {
				f.flush()
			}
		}
		f.close()
	}()
	got, err := io.ReadAll(r)
	if err != nil || string(got) != want.String() {
		t.Errorf("%d bytes came, %v; want %d in order", len(got), err, want.Len())
	}
}
