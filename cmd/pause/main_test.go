package main

import (
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"
	"time"
)

func TestEndsOnSignal(t *testing.T) {
	// A signal that comes before run listens must not end the test.
	early := make(chan os.Signal, 1)
	signal.Notify(early, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(early)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		done := make(chan int)
		go func() { done <- run() }()
		again := time.NewTicker(time.Millisecond)
		for ended := false; !ended; {
			if err := syscall.Kill(os.Getpid(), sig); err != nil {
				t.Fatal(err)
			}
			select {
			case status := <-done:
				if ended = true; status != 0 {
					t.Errorf("%s: status %d", sig, status)
				}
			case <-again.C:
			}
		}
		again.Stop()
	}
}

func TestReap(t *testing.T) {
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for syscall.Kill(cmd.Process.Pid, 0) == nil { // true of a zombie too
		reap()
	}
}
