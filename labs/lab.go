// Package labs knows what a lab is made of and how an author's folder becomes one: strict
// decoding with file and line in every complaint, expressions compiled, files cross-checked.
// It does not know how checks are run, how far a learner has come, or what Markdown means.
package labs

import (
	"io/fs"

	"github.com/ropes-dev/ropes/checks"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Lab is one loaded and validated lab. It is not changed after Load.
type Lab struct {
	Pos        checks.Pos `yaml:"-" json:"-"`
	Source     string     `yaml:"-" json:"source"` // name of the Source it came from
	ID         string     `yaml:"id" json:"id"`
	Title      string     `yaml:"title" json:"title"`
	Summary    string     `yaml:"summary" json:"summary"`
	Minutes    int        `yaml:"minutes" json:"minutes"` // a learner's time for all steps
	Needs      []Need     `yaml:"needs" json:"needs"`
	Namespaces []string   `yaml:"namespaces" json:"namespaces"` // namespaces that belong to the lab, there or not
	Owns       []Owned    `yaml:"owns" json:"-"`                // cluster-scoped objects beside those labelled
	Steps      []Step     `yaml:"steps" json:"steps"`

	Baseline []*unstructured.Unstructured `yaml:"-" json:"-"` // baseline/*.yaml in order of file names
}

// Step is one task of a lab.
type Step struct {
	Pos     checks.Pos                  `yaml:"-" json:"-"`
	ID      string                      `yaml:"id" json:"id"`
	Title   string                      `yaml:"title" json:"title"`
	Hints   []string                    `yaml:"hints" json:"-"` // in tiers, from a nudge to nearly the answer
	Objects map[string]checks.ObjectRef `yaml:"objects" json:"-"`
	Probes  map[string]checks.Probe     `yaml:"probes" json:"-"`
	Watch   []checks.ObjectRef          `yaml:"watch" json:"-"`
	Checks  []checks.Check              `yaml:"checks" json:"-"` // with the step's objects, probes and watch merged in

	Text     string   `yaml:"-" json:"-"` // steps/NN-ID.md, raw
	Solution string   `yaml:"-" json:"-"` // solve/ID.sh, raw
	Mistakes []Script `yaml:"-" json:"-"` // mistakes/ID.MISTAKE.sh in order of the checks
}

// Script is the script that makes a known mistake.
type Script struct {
	Mistake string // id of the mistake that the verdict has to name
	Check   string // id of the check that has to name it
	Body    string
}

// Owned names cluster-scoped objects that belong to the lab. Objects that carry the label
// LabLabel with the lab's id belong to it without being named.
type Owned struct {
	Pos        checks.Pos  `yaml:"-"`
	APIVersion string      `yaml:"apiVersion"`
	Kind       string      `yaml:"kind"`
	Names      []string    `yaml:"names"`
	Where      checks.Expr `yaml:"where"` // a bool over the variable "object"
}

// LabLabel marks cluster-scoped objects as belonging to the lab whose id is its value.
const LabLabel = "ropes.dev/lab"

// Need is a property of the cluster that a lab cannot do without.
type Need string

// The needs an author may name.
const (
	NeedMesh          Need = "mesh"
	NeedStorage       Need = "storage"
	NeedNetworkPolicy Need = "networkpolicy"
	NeedMetrics       Need = "metrics"
)

// Step returns the step with that id.
func (l *Lab) Step(id string) (*Step, bool) {
	for i := range l.Steps {
		if l.Steps[i].ID == id {
			return &l.Steps[i], true
		}
	}
	return nil, false
}

// Source is a tree of labs: each folder at its root that has a lab.yaml is a lab, and so is
// the root itself where it has one.
type Source struct {
	Name string // where it came from, as complaints name it: a directory, or "built in"
	FS   fs.FS
}
