package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ropes-dev/ropes/checks"
	"github.com/ropes-dev/ropes/labs/session"
)

var (
	metVerdicts   = []checks.Verdict{{Check: "there", State: checks.Met}, {Check: "right", State: checks.Met}}
	unmetVerdicts = []checks.Verdict{
		{Check: "there", State: checks.Met},
		{Check: "right", State: checks.Unmet, Want: "a right one", Got: "a left one", Why: "Left is not right.", Next: "Turn it.", Mistake: "left"},
	}
	blockedVerdicts = []checks.Verdict{{Check: "there", State: checks.CouldNotRun, Why: "the API server does not answer", Next: "ropes up"}}
)

// inLab is a bench with a cluster, at the first step of the lab namespaces.
func inLab(t *testing.T) *bench {
	t.Helper()
	b := newBench(t)
	b.up()
	b.session.lab, b.session.met = "namespaces", map[string]bool{}
	return b
}

const goOn = "\nropes watch grades live, ropes check grades once, ropes hint helps, ropes shell has kubectl and istioctl.\n"

func stepText(n int, id, title string) string {
	return fmt.Sprintf("Lab namespaces, step %d of 2: %s\n\n%s\n%s\n\nDo it now.\n", n, id, title, strings.Repeat("─", len(title)))
}

func TestLabs(t *testing.T) {
	b := newBench(t)
	b.expect(result{`LAB          TITLE                TIME     STEPS MET
namespaces   Rooms in the house   40 min   0/2
storage      Data that stays      30 min   0/1

ropes start LAB begins one; without LAB it shows the step you are at.
`, "", 0}, "labs")
	b = inLab(t)
	b.session.met["create"] = true
	b.expect(result{`LAB          TITLE                TIME     STEPS MET
namespaces   Rooms in the house   40 min   1/2         under way
storage      Data that stays      30 min   0/1

ropes --name two start LAB begins one; without LAB it shows the step you are at.
`, "", 0}, "--name", "two", "labs")
	b.expect(result{`[
  {
    "id": "namespaces",
    "title": "Rooms in the house",
    "summary": "Sum.",
    "minutes": 40,
    "needs": [
      "networkpolicy"
    ],
    "source": "built in",
    "current": true,
    "met": 1,
    "steps": [
      {
        "id": "create",
        "title": "Create one",
        "met": true
      },
      {
        "id": "quota",
        "title": "A budget",
        "met": false
      }
    ]
  },
  {
    "id": "storage",
    "title": "Data that stays",
    "summary": "",
    "minutes": 30,
    "needs": [],
    "source": "built in",
    "current": false,
    "met": 0,
    "steps": [
      {
        "id": "claim",
        "title": "Claim it",
        "met": false
      }
    ]
  }
]
`, "", 0}, "labs", "-o", "json")
}

func TestStart(t *testing.T) {
	b := inLab(t)
	b.session.lab = ""
	b.expect(result{stepText(1, "create", "Create one") + goOn, "applying the baseline\n", 0}, "start", "namespaces")
	b.expect(result{stepText(1, "create", "Create one") + goOn, "", 0}, "start")
	b.session.met["create"] = true
	b.expect(result{`{
  "lab": "namespaces",
  "id": "quota",
  "title": "A budget",
  "number": 2,
  "of": 2,
  "text": "# A budget\n\nDo *it* now.\n"
}
`, "", 0}, "start", "-o", "json")
	b.session.met["quota"] = true
	b.expect(result{"Lab namespaces: all 2 steps met.\nropes labs shows what else there is.\n", "", 0}, "start")
}

func TestCheck(t *testing.T) {
	unmet := `Step 1 of 2, create: Create one
✓ It is there
✗ It is right
    want a right one
    got  a left one
    why  Left is not right.
    next Turn it.

Not met yet. ropes hint helps, ropes watch grades while you work.
`
	b := inLab(t)
	b.session.verdicts = unmetVerdicts
	b.expect(result{unmet, "", 3}, "check")
	b.expect(result{unmet, "", 3}, "check", "create")
	b.expect(result{unmet, "", 3}, "check", "1")

	b.session.verdicts = blockedVerdicts
	b.expect(result{`Step 1 of 2, create: Create one
! It is there (could not be checked)
    why  the API server does not answer
    next ropes up

Not met yet. ropes hint helps, ropes watch grades while you work.
`, "", 1}, "check")

	met := "Step 1 of 2, create: Create one\n✓ It is there\n✓ It is right\n\n"
	b.session.verdicts = metVerdicts
	b.expect(result{met + "Met.\n\n" + stepText(2, "quota", "A budget") + goOn, "", 0}, "check")
	b.expect(result{met + "Met.\n\n" + stepText(2, "quota", "A budget") + goOn, "", 0}, "check", "create")
	quota := "Step 2 of 2, quota: A budget\n✓ It is there\n✓ It is right\n\n"
	done := "Lab namespaces: all 2 steps met.\nropes labs shows what else there is.\n"
	b.expect(result{quota + done, "", 0}, "check")
	b.expect(result{met + quota + done, "", 0}, "check")
	b.expect(result{met + quota + done, "", 0}, "check", "--all")

	var report CheckReport
	r := b.run("check", "quota", "-o", "json")
	if err := json.Unmarshal([]byte(r.out), &report); err != nil || r.code != 0 || r.err != "" {
		t.Fatalf("%v: %+v", err, r)
	}
	want := CheckReport{Lab: "namespaces", Met: true, Steps: []StepReport{{ID: "quota", Title: "A budget", Met: true, Verdicts: metVerdicts}}}
	if diff := cmp.Diff(want, report); diff != "" {
		t.Error(diff)
	}
}

func TestHintAndSolution(t *testing.T) {
	b := inLab(t)
	b.expect(result{"Hint 1 of 2 for step create\nThink.\n", "", 0}, "hint")
	b.expect(result{"Hint 2 of 2 for step create\nDo `it`.\n\nThat was the last one. ropes solution shows the answer.\n", "", 0}, "hint")
	b.expect(result{"{\n  \"step\": \"quota\",\n  \"tier\": 2,\n  \"of\": 2,\n  \"text\": \"Do `it`.\"\n}\n", "", 0}, "hint", "quota", "-o", "json")
	b.expect(result{"echo solved create\n", "", 0}, "solution")
	b.expect(result{"{\n  \"lab\": \"namespaces\",\n  \"step\": \"quota\",\n  \"script\": \"echo solved quota\\n\"\n}\n", "", 0}, "solution", "2", "-o", "json")
	b.expect(result{"solved create\n", "The solution of step create has run. Next: ropes check\n", 0}, "solution", "--apply")

	b.catalog[0].Steps[0].Solution = "echo $KUBECONFIG\nreadlink \"$(command -v kubectl)\"\nfalse\necho never\n"
	b.expect(result{"HOME/.local/state/ropes/clusters/ropes/kubeconfig\n/bin/true\n", "ropes: the solution of step create ended with status 1\n", 1}, "solution", "--apply")
}

func TestReset(t *testing.T) {
	b := inLab(t)
	b.session.report = session.ResetReport{
		Lab: "namespaces", Deleted: []string{"Pod a/b"}, Restored: []string{"ResourceQuota a/q"},
		Objects: 14, Digest: "sha256:0123456789abcdef0123", Took: 1234 * time.Millisecond,
	}
	const proof = "Proof: 14 objects compared, all equal to the record, digest sha256:0123456789ab.\nYou are at step 1 of lab namespaces, create. ropes start shows it.\n"
	const list = "deleted   Pod a/b\nrestored  ResourceQuota a/q\n"
	b.expect(result{list + "The current step of lab namespaces is at its baseline after 1.2s: 1 deleted, 1 restored.\n" + proof, "", 0}, "reset")
	b.expect(result{list + "Lab namespaces is at its baseline after 1.2s: 1 deleted, 1 restored.\n" + proof, "", 0}, "reset", "lab")
	b.expect(result{list + "The cluster is at its baseline after 1.2s: 1 deleted, 1 restored.\n" + proof, "", 0}, "reset", "cluster")
	b.expect(result{`{
  "scope": "lab",
  "lab": "namespaces",
  "deleted": [
    "Pod a/b"
  ],
  "restored": [
    "ResourceQuota a/q"
  ],
  "objects": 14,
  "digest": "sha256:0123456789abcdef0123",
  "took": 1234000000
}
`, "", 0}, "reset", "lab", "-o", "json")
}

func TestWatch(t *testing.T) {
	b := inLab(t)
	b.session.watch = func(_ context.Context, say func(session.Event)) error {
		verdict := func(step string, vs ...checks.Verdict) {
			for _, v := range vs {
				v.Step = step
				say(session.Event{Kind: session.VerdictGiven, Lab: "namespaces", Step: step, Verdict: &v})
			}
		}
		say(session.Event{Kind: session.StepStarted, Lab: "namespaces", Step: "create"})
		verdict("create", unmetVerdicts...)
		verdict("create", unmetVerdicts...) // nothing new, nothing said
		verdict("create", metVerdicts...)
		say(session.Event{Kind: session.StepMet, Lab: "namespaces", Step: "create"})
		say(session.Event{Kind: session.StepStarted, Lab: "namespaces", Step: "quota"})
		verdict("quota", metVerdicts...)
		say(session.Event{Kind: session.StepMet, Lab: "namespaces", Step: "quota"})
		say(session.Event{Kind: session.LabMet, Lab: "namespaces"})
		return nil
	}
	b.expect(result{
		stepText(1, "create", "Create one") + `✓ It is there
✗ It is right
    want a right one
    got  a left one
    why  Left is not right.
    next Turn it.
✓ It is right

Step create is met.

` + stepText(2, "quota", "A budget") + `
✓ It is there
✓ It is right

Step quota is met.

Lab namespaces: all 2 steps met.
ropes labs shows what else there is.
`,
		"\nWatching; do the step in another terminal (ropes shell). Ctrl-C ends.\n\n", 0,
	}, "watch")

	r := b.run("watch", "-o", "json")
	if lines := strings.Count(r.out, "\n"); lines != 13 || r.err != "" || r.code != 0 {
		t.Errorf("%d lines: %+v", lines, r)
	}
	for line := range strings.Lines(r.out) {
		var e session.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Kind == "" {
			t.Errorf("%v: %s", err, line)
		}
	}

	b.session.met = map[string]bool{"create": true, "quota": true}
	b.expect(result{"Lab namespaces: all 2 steps met.\nropes labs shows what else there is.\n", "", 0}, "watch")
}

func TestWatchInterrupted(t *testing.T) {
	b := inLab(t)
	b.session.watch = func(ctx context.Context, _ func(session.Event)) error {
		<-ctx.Done()
		return nil
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, context.Canceled)
		defer cancel()
		if r := b.runCtx(ctx, "watch"); r.code != 130 || !strings.HasSuffix(r.err, "ropes: interrupted\n") {
			t.Errorf("%+v", r)
		}
	})
}

func TestLabsRefuse(t *testing.T) {
	usage := func(command, message string) result {
		return result{"", "ropes: " + message + "\n  try: ropes " + command + " --help\n", 2}
	}
	gone := fmt.Errorf("%w: connection refused", session.ErrCluster)
	noCluster := result{"", "ropes: there is no cluster called \"ropes\"\n  try: ropes up\n", 1}
	noLab := result{"", "ropes: no lab is started\n  try: ropes labs, then ropes start LAB\n", 1}
	goneResult := result{"", "ropes: cluster unreachable: connection refused\n  try: ropes status, then ropes up, which resumes a cluster that stopped; your progress is kept\n", 1}
	for _, tt := range []struct {
		name  string
		setup func(*bench)
		args  string
		want  result
	}{
		{"unknown lab", nil, "start namespace", usage("start", `there is no lab called "namespace"; did you mean "namespaces"?; ropes labs lists them`)},
		{"lab like no other", nil, "start mtls", usage("start", `there is no lab called "mtls"; ropes labs lists them`)},
		{"two labs", nil, "start a b", usage("start", `unexpected argument "b"`)},
		{"unknown step", nil, "check qouta", usage("check", `lab namespaces has no step "qouta"; did you mean "quota"?; its steps: create, quota`)},
		{"step number", nil, "hint 3", usage("hint", `lab namespaces has no step "3"; its steps: create, quota`)},
		{"all and a step", nil, "check quota --all", usage("check", "--all and a step do not go together")},
		{"unknown scope", nil, "reset world", usage("reset", `reset "world": use step, lab or cluster`)},
		{"unknown format", nil, "check -o yaml", usage("check", `invalid argument "yaml" for "-o, --output" flag: use text or json`)},
		{"apply as JSON", nil, "solution --apply -o json", usage("solution", "--apply and -o json do not go together")},
		{"broken lab", nil, "--labs broken labs", result{"", "ropes: broken/x/lab.yaml:3: unknown field \"titel\"\n  broken/x/lab.yaml:9: no steps\n", 1}},
		{"start without a cluster", func(b *bench) { clear(b.provider.clusters) }, "start storage", noCluster},
		{"check without a cluster", func(b *bench) { clear(b.provider.clusters) }, "check", noCluster},
		{"watch without a cluster", func(b *bench) { clear(b.provider.clusters) }, "watch", noCluster},
		{"reset without a cluster", func(b *bench) { clear(b.provider.clusters) }, "reset cluster", noCluster},
		{"apply without a cluster", func(b *bench) { clear(b.provider.clusters) }, "solution --apply", noCluster},
		{"check on a stopped cluster", func(b *bench) { b.provider.clusters["ropes"] = clusterOf("ropes", 2, false) }, "check", result{"", "ropes: cluster \"ropes\" is not running\n  try: ropes up   (it resumes where the cluster stopped)\n", 1}},
		{"check before start", func(b *bench) { b.session.lab = "" }, "check", noLab},
		{"watch before start", func(b *bench) { b.session.lab = "" }, "watch", noLab},
		{"hint before start", func(b *bench) { b.session.lab = "" }, "hint", noLab},
		{"solution before start", func(b *bench) { b.session.lab = "" }, "solution", noLab},
		{"reset before start", func(b *bench) { b.session.lab = "" }, "reset", noLab},
		{"current before start", func(b *bench) { b.session.lab = "" }, "start", noLab},
		{"hint when all is met", func(b *bench) { b.session.met = map[string]bool{"create": true, "quota": true} }, "hint", result{"", "ropes: all steps of lab namespaces are met\n  try: ropes hint STEP for one of them\n", 1}},
		{"cluster gone while checking", func(b *bench) { b.session.err = gone }, "check", goneResult},
		{"cluster gone while resetting", func(b *bench) { b.session.err = gone }, "reset", goneResult},
		{"cluster gone while starting", func(b *bench) { b.session.err = gone }, "start storage", goneResult},
		{
			"a need is not there", func(b *bench) { b.session.err = fmt.Errorf("lab mtls: %w mesh", session.ErrNeed) }, "start storage",
			result{"", "ropes: lab mtls: " + session.ErrNeed.Error() + " mesh\n  try: ropes status, then ropes up to put in what is missing\n", 1},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := inLab(t)
			if tt.setup != nil {
				tt.setup(b)
			}
			b.expect(tt.want, strings.Fields(tt.args)...)
		})
	}
}

func TestWatchClusterGone(t *testing.T) {
	b := inLab(t)
	b.session.watch = func(context.Context, func(session.Event)) error {
		return fmt.Errorf("%w: EOF", session.ErrCluster)
	}
	if r := b.run("watch"); r.code != 1 || !strings.Contains(r.err, "ropes: cluster unreachable: EOF\n  try: ropes status") {
		t.Errorf("%+v", r)
	}
}

func TestSessionIsOpenedForTheCluster(t *testing.T) {
	b := inLab(t)
	b.provider.clusters["two"] = clusterOf("two", 0, true)
	b.session.verdicts = metVerdicts
	b.env[clusterEnv] = "two"
	if r := b.run("check"); r.code != 0 {
		t.Fatal(r)
	}
	o := b.session.opts
	if o.Cluster != "two" || string(o.Kubeconfig) != string(kubeconfigFor("two")) || o.StateDir != b.home+"/.local/state/ropes/progress" || !o.Adopt || len(o.Labs) != 2 {
		t.Errorf("%+v", o)
	}
	delete(b.env, clusterEnv)
	b.labsErr = errors.New("x.yaml:1: no")
	if r := b.run("status"); r.code != 0 {
		t.Errorf("a broken lab keeps status from working: %+v", r)
	}
}
