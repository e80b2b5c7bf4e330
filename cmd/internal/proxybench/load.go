package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"
)

// load is what one run of a generator saw.
type load struct {
	rate     float64 // requests per second
	p50, p99 time.Duration
}

var (
	wrkRate    = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)
	wrkQuant   = regexp.MustCompile(`(?m)^\s+(50|99)%\s+(\S+)$`)
	wrkFailed  = regexp.MustCompile(`(?m)^\s+(?:Socket errors:.*|Non-2xx.*)$`)
	wrkHeaders = []string{"-H", "User-Agent: bench/1.0", "-H", "Accept: */*", "-H", "X-Request-Id: 6a3ff8f2-4a1c-4bb5-9f7e-1ad0b7f2e6c1"}
)

// saturate sends as many requests as conns connections can, for d, with wrk. An answer that is not 2xx is an error.
func saturate(ctx context.Context, cpus string, port, conns int, d time.Duration) (load, error) {
	argv := append([]string{
		"-c", cpus, "wrk", "-t1", "-c" + strconv.Itoa(conns), "-d" + strconv.Itoa(int(d.Seconds())) + "s", "--latency",
	}, wrkHeaders...)
	out, err := exec.CommandContext(ctx, "taskset", append(argv, "http://"+local(port)+"/api/v1/items?page=1")...).CombinedOutput()
	if err != nil {
		return load{}, fmt.Errorf("wrk: %w\n%s", err, out)
	}
	if m := wrkFailed.Find(out); m != nil {
		return load{}, fmt.Errorf("wrk:%s", m)
	}
	var l load
	if m := wrkRate.FindSubmatch(out); m != nil {
		l.rate, err = strconv.ParseFloat(string(m[1]), 64)
	}
	if err != nil || l.rate == 0 {
		return load{}, fmt.Errorf("wrk says:\n%s", out)
	}
	for _, m := range wrkQuant.FindAllSubmatch(out, -1) {
		d, err := time.ParseDuration(string(m[2]))
		if err != nil {
			return load{}, err
		}
		if string(m[1]) == "50" {
			l.p50 = d
		} else {
			l.p99 = d
		}
	}
	return l, nil
}

// steady sends rate requests per second for d on conns connections, whatever the answers take: a request's time runs
// from when it was due, so that a stall counts for every request that it held up.
func steady(ctx context.Context, port, conns, rate int, d time.Duration) (load, error) {
	due := make(chan time.Time, rate*int(d.Seconds()+1))
	took := make([][]time.Duration, conns)
	errs := make([]error, conns)
	var wg sync.WaitGroup
	for i := range conns {
		c, err := net.Dial("tcp", local(port))
		if err != nil {
			close(due)
			return load{}, err
		}
		wg.Go(func() {
			defer func() { _ = c.Close() }()
			br := bufio.NewReader(c)
			for at := range due {
				if errs[i] != nil {
					continue
				}
				errs[i] = once(c, br)
				took[i] = append(took[i], time.Since(at))
			}
		})
	}
	every := time.Second / time.Duration(rate)
	began := time.Now()
	n := 0
	for ; ctx.Err() == nil && time.Duration(n)*every < d; n++ {
		at := began.Add(time.Duration(n) * every)
		time.Sleep(time.Until(at))
		due <- at
	}
	close(due)
	wg.Wait()
	all := slices.Concat(took...)
	for _, err := range errs {
		if err != nil {
			return load{}, err
		}
	}
	slices.Sort(all)
	return load{rate: float64(n) / time.Since(began).Seconds(), p50: quantile(all, 0.5), p99: quantile(all, 0.99)}, ctx.Err()
}

const request = "GET /api/v1/items?page=1 HTTP/1.1\r\nHost: server.bench.svc.cluster.local\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\n\r\n"

func once(c net.Conn, br *bufio.Reader) error {
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, request); err != nil {
		return err
	}
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

// idle opens n connections, sends one request on each and leaves them open until the result is called.
func idle(port, n int) (func(), error) {
	conns := make([]net.Conn, 0, n)
	end := func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}
	for range n {
		c, err := net.Dial("tcp", local(port))
		if err != nil {
			return end, err
		}
		conns = append(conns, c)
		if err := once(c, bufio.NewReader(c)); err != nil {
			return end, err
		}
	}
	return end, nil
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}
