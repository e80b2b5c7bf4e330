package term

import (
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/schollz/progressbar/v3"
)

const (
	barWidth   = 12
	barRefresh = 120 * time.Millisecond
)

// Progress shows phases as they pass: on a terminal a bar with what is waited for and the
// time the phase has taken, above it a line for every phase that is over; elsewhere one
// plain line when a phase is over. It is a bootstrap.Observer.
type Progress struct {
	c *Console

	mu    sync.Mutex
	bar   *progressbar.ProgressBar
	event bootstrap.Event // the last one of the phase under way
	since time.Time       // when its phase started
	stop  chan struct{}
	ended sync.WaitGroup
}

var _ bootstrap.Observer = (*Progress)(nil)

// NewProgress starts showing; Close ends it.
func NewProgress(c *Console) *Progress {
	p := &Progress{c: c, stop: make(chan struct{})}
	if c.TTY {
		p.ended.Go(p.refresh)
	}
	return p
}

// Joined returns observers for two runs one after the other that together look like one:
// later is the number of phases of the second.
func (p *Progress) Joined(later int) (first, second bootstrap.Observer) {
	before := 0
	first = bootstrap.ObserverFunc(func(e bootstrap.Event) {
		before = max(before, e.Total)
		e.Total += later
		p.Observe(e)
	})
	second = bootstrap.ObserverFunc(func(e bootstrap.Event) {
		e.Index += before
		e.Total += before
		p.Observe(e)
	})
	return first, second
}

// Observe implements bootstrap.Observer.
func (p *Progress) Observe(e bootstrap.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e.State {
	case bootstrap.Started, bootstrap.Running:
		if e.State == bootstrap.Started || e.Phase != p.event.Phase {
			p.since = time.Now().Add(-e.Elapsed)
		}
		p.event = e
		p.draw()
	default:
		p.clear()
		p.event = bootstrap.Event{}
		p.over(e)
	}
}

// over writes the line that stays.
func (p *Progress) over(e bootstrap.Event) {
	took := fmt.Sprintf("%.1fs", e.Elapsed.Seconds())
	if !p.c.TTY {
		switch e.State {
		case bootstrap.Done:
			p.c.Printf("%s ... done (%s)\n", e.Phase, took)
		case bootstrap.Skipped:
			p.c.Printf("%s ... already done\n", e.Phase)
		case bootstrap.Failed:
			p.c.Printf("%s ... failed (%s)\n", e.Phase, took)
		}
		return
	}
	count := p.c.Paint(Dim, fmt.Sprintf("%*d/%d", len(fmt.Sprint(e.Total)), e.Index+1, e.Total))
	switch e.State {
	case bootstrap.Done:
		p.c.Printf("%s %s %s %s\n", p.c.Paint(Green, "✓"), count, e.Phase, p.c.Paint(Dim, took))
	case bootstrap.Skipped:
		p.c.Printf("%s %s %s\n", p.c.Paint(Dim, "-"), count, e.Phase+p.c.Paint(Dim, " already done"))
	case bootstrap.Failed:
		p.c.Printf("%s %s %s %s\n", p.c.Paint(Red, "✗"), count, e.Phase, p.c.Paint(Dim, took))
	}
}

// Close takes the bar away. What was written above it stays.
func (p *Progress) Close() {
	if p.c.TTY {
		close(p.stop)
		p.ended.Wait()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
}

func (p *Progress) refresh() {
	t := time.NewTicker(barRefresh)
	defer t.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-t.C:
			p.mu.Lock()
			if p.event.Phase != "" {
				p.draw()
			}
			p.mu.Unlock()
		}
	}
}

func (p *Progress) draw() {
	if !p.c.TTY || p.event.Total == 0 {
		return
	}
	if p.bar == nil {
		p.bar = progressbar.NewOptions(p.event.Total,
			progressbar.OptionSetWriter(p.c.Writer),
			progressbar.OptionSetWidth(barWidth),
			progressbar.OptionUseANSICodes(true),
			progressbar.OptionShowDescriptionAtLineEnd(),
			progressbar.OptionSetPredictTime(false),
			progressbar.OptionSetElapsedTime(false),
			progressbar.OptionSetTheme(progressbar.Theme{Saucer: "█", SaucerHead: "█", SaucerPadding: "░", BarStart: " ", BarEnd: " "}),
		)
	}
	if p.bar.GetMax() != p.event.Total {
		p.bar.ChangeMax(p.event.Total)
	}
	text := fmt.Sprintf("%s %.0fs", p.event.Phase, time.Since(p.since).Seconds())
	if p.event.Detail != "" {
		detail, _, _ := strings.Cut(p.event.Detail, "\n")
		text += "  " + detail
	}
	room := p.c.width() - barWidth - 12
	text = cut(text, room)
	p.bar.Describe(text + strings.Repeat(" ", max(0, room-utf8.RuneCountInString(text)))) // over what was longer
	_ = p.bar.Set(p.event.Index)                                                          // fails only past the end, and then the bar stays full
}

func (p *Progress) clear() {
	if p.bar != nil {
		p.c.Printf("\r\x1b[2K")
		p.bar = nil
	}
}
