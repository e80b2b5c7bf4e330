// Package command is the command line of ropes: one file per command, each an options
// struct, the cobra command that fills it and the function that does the work. It knows
// what a learner types, sees and gets as exit code. It does not know how clusters are
// made, how steps are graded or what kubectl does: those come in through Deps, so that
// every command runs in tests without them.
package command

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/checks"
	"github.com/ropes-dev/ropes/cmd/internal/term"
	"github.com/ropes-dev/ropes/labs"
	"github.com/ropes-dev/ropes/labs/session"
	"k8s.io/client-go/kubernetes"
)

// Deps is what the commands work with. Out receives results, Err progress and complaints.
type Deps struct {
	In       io.Reader
	Out, Err io.Writer
	Getenv   func(string) string
	Environ  []string // for programs that are started
	Self     string   // path of this executable
	Root     bool     // whether the user is root

	Providers []bootstrap.Provider // in order of preference
	Absent    map[string]string    // providers that this build lacks, with the reason
	Rights    []byte               // roles that a user of somebody else's cluster needs, as YAML
	Installs  []Install            // what follows a provider's Up, in order
	// OpenPage returns nil where the sample app's page at url comes whole; nil where nobody is to ask.
	OpenPage func(ctx context.Context, url string) error
	Clients  func(kubeconfig []byte) (kubernetes.Interface, error)
	Logs     LogSource

	// Labs loads the built-in labs and those in the directories.
	Labs    func(dirs []string) (labs.Catalog, error)
	Session func(session.Options) (Session, error)

	// Bundle writes all that a kind cluster needs of a network into a file.
	Bundle func(ctx context.Context, file string, spec bootstrap.Spec, obs bootstrap.Observer) error

	Kubectl, Istioctl Tool
	// SaveImages writes images of the payload, all where none is named, as an archive; nil
	// where there is no payload for this system.
	SaveImages func(ctx context.Context, w io.Writer, refs []string) error
	// Versions names the programs that this binary carries, with their versions.
	Versions func() (map[string]string, error)
	Log      *slog.Logger

	out, err *term.Console
	cluster  string   // --name
	labDirs  []string // --labs
	ran      bool     // a command was found and began to run
}

// Install is one thing that is put into a cluster that is up.
type Install struct {
	Name string
	// Do brings it about, or returns bootstrap.ErrSkip where it is there.
	Do func(ctx context.Context, c bootstrap.Cluster, say func(string)) error
	// Undo takes it out of a cluster that stays; nil where there is nothing to take out.
	Undo func(ctx context.Context, c bootstrap.Cluster, say func(string)) error
	// Undoing is the name of the phase that Undo is.
	Undoing string
	// Bare says that it belongs to the cluster itself, and is done with --bare too.
	Bare bool
}

// examiner is a provider that can look at the cluster that a Spec means, before Up.
type examiner interface {
	Examine(ctx context.Context, spec bootstrap.Spec) []bootstrap.Finding
}

// LogSource gives the logs of what runs on this host for a cluster. The API server is not asked.
type LogSource interface {
	Components(cluster string) []string
	// Open returns the log from its beginning. With follow it goes on until ctx ends.
	Open(ctx context.Context, cluster, component string, follow bool) (io.ReadCloser, error)
}

// Tool is a command of somebody else's that is built in.
type Tool interface {
	// Run runs it with the process's own streams and environment, KUBECONFIG changed to
	// kubeconfig unless that is empty, and returns its exit code. It may end the process
	// instead. failed is called before either where it did not succeed.
	Run(kubeconfig string, args []string, failed func()) int
	// Complete answers a shell's request for completion as cobra's __complete does.
	Complete(kubeconfig string, args []string) (string, error)
}

// Session is one learner's way through the labs on one cluster; package session has it. A
// step given as "" is the current one.
type Session interface {
	SessionReader
	// Start makes lab the current one and its baseline that of the cluster.
	Start(ctx context.Context, lab string) error
	// Check grades a step. When the current step is met, the next becomes current.
	Check(ctx context.Context, step string) ([]checks.Verdict, error)
	// Watch grades the current step live until ctx ends or the lab is met; nil for both.
	Watch(ctx context.Context) error
	// Reset brings back what was recorded and proves it.
	Reset(ctx context.Context, scope session.Scope) (session.ResetReport, error)
}

// SessionReader is what a session can do without a cluster.
type SessionReader interface {
	Progress() (session.Progress, error)
	// Current returns the lab and step under way; the step is nil where all are met, the
	// error session.ErrNoLab where no lab is.
	Current() (*labs.Lab, *labs.Step, error)
	// Hint shows the next hint.
	Hint(step string) (session.Hint, error)
}

// lister is a provider that knows which clusters have anything on this host.
type lister interface {
	List() ([]string, error)
}

// DefaultName is the name of the cluster where none is given.
const DefaultName = "ropes"

// clusterEnv and labsEnv set the defaults of --name and --labs.
const (
	clusterEnv = "ROPES_CLUSTER"
	labsEnv    = "ROPES_LABS"
)

// StateDir is where progress and each cluster's kubeconfig of its own lie.
func StateDir(getenv func(string) string) string {
	return userDir(getenv, "XDG_STATE_HOME", ".local", "state")
}

// CacheDir is where the payload is unpacked; all in it can be made again.
func CacheDir(getenv func(string) string) string {
	return userDir(getenv, "XDG_CACHE_HOME", ".cache")
}

func userDir(getenv func(string) string, env string, under ...string) string {
	if dir := getenv(env); filepath.IsAbs(dir) {
		return filepath.Join(dir, "ropes")
	}
	home := cmp.Or(getenv("HOME"), getenv("USERPROFILE")) // the latter on Windows
	if home == "" {
		home = os.TempDir()
	}
	return filepath.Join(append(append([]string{home}, under...), "ropes")...)
}

// clusterDir holds what the CLI keeps for the chosen cluster; down removes it.
func (d *Deps) clusterDir() string {
	return filepath.Join(StateDir(d.Getenv), "clusters", d.cluster)
}

// ownKubeconfig holds the chosen cluster and nothing else.
func (d *Deps) ownKubeconfig() string { return filepath.Join(d.clusterDir(), "kubeconfig") }
