package term

import (
	"fmt"
	"strings"

	"github.com/ropes-dev/ropes/checks"
)

// Verdict shows one verdict: a line, and where it is not met what is wanted, what there
// is, why that matters and what to try next. description is the check's own.
func (c *Console) Verdict(v checks.Verdict, description string) {
	if description == "" {
		description = v.Check
	}
	mark := map[checks.State]string{
		checks.Met:         c.Paint(Green, "✓"),
		checks.Unmet:       c.Paint(Red, "✗"),
		checks.CouldNotRun: c.Paint(Yellow, "!"),
	}[v.State]
	head := description
	if v.State == checks.CouldNotRun {
		head += " (could not be checked)"
	}
	fmt.Fprintln(c, wrap(head, mark+" ", "  ", c.textWidth()))
	if v.State == checks.Met {
		return
	}
	for _, row := range [][2]string{{"want", v.Want}, {"got", v.Got}, {"why", v.Why}, {"next", v.Next}} {
		if row[1] == "" || v.State == checks.CouldNotRun && row[0] == "want" {
			continue
		}
		first := "    " + c.Paint(Dim, fmt.Sprintf("%-5s", row[0]))
		for i, line := range strings.Split(strings.TrimSpace(row[1]), "\n") {
			if i > 0 {
				first = strings.Repeat(" ", 9)
			}
			fmt.Fprintln(c, c.prose(line, first))
		}
	}
}

// prose wraps a sentence behind first, with the code inside it painted. Lines that are
// indented are commands or manifests and stay as they are.
func (c *Console) prose(s, first string) string {
	rest := strings.Repeat(" ", visible(first))
	if strings.HasPrefix(s, " ") {
		return first + s
	}
	r := renderer{c: c}
	return wrap(r.inline(s), first, rest, c.textWidth())
}
