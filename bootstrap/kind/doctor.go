package kind

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/ropes-dev/ropes/bootstrap"
)

// needMemory is what a lab of three nodes with Istio needs of the engine, in bytes.
const needMemory = 4 << 30

// Doctor implements bootstrap.Provider.
func (p *Provider) Doctor(ctx context.Context) []bootstrap.Finding {
	return p.Examine(ctx, bootstrap.Spec{})
}

// Examine is Doctor for what spec asks for: its node image or bundle, its images.
func (p *Provider) Examine(ctx context.Context, spec bootstrap.Spec) []bootstrap.Finding {
	engine, err := p.detect(ctx)
	f := bootstrap.Finding{Check: "container engine", Severity: bootstrap.OK}
	if err != nil {
		f.Severity, f.Detail = bootstrap.Fatal, err.Error()
		if t := (*Trouble)(nil); errors.As(err, &t) {
			f.Detail, f.Mend = t.Detail, t.Mend
		}
		return []bootstrap.Finding{f}
	}
	f.Detail = engine.Name + " " + engine.Version
	if host := engine.elsewhere(ctx); host != "" {
		f.Severity, f.Mend = bootstrap.Fatal, "use an engine of this machine: unset DOCKER_HOST, or docker context use default"
		f.Detail += " is at " + host + ", and a cluster there is not to be reached from here: its ports are on that machine's loopback"
		return []bootstrap.Finding{f}
	}
	answers := p.registry(ctx)
	return []bootstrap.Finding{f, memory(ctx, engine), inotify(inotifyLimit), p.findNodeImage(ctx, engine, spec, answers), p.findImages(spec, answers)}
}

const (
	inotifyLimit = "/proc/sys/fs/inotify/max_user_instances"
	// needInotify is what three nodes take of them, with room for what else runs: each
	// containerd, kubelet and pod that watches files has some.
	needInotify = 256
)

// inotify looks at a limit of the kernel that all nodes share where they run on this
// machine. Where it is reached, a node's containerd does not notice its pod network.
func inotify(path string) bootstrap.Finding {
	f := bootstrap.Finding{Check: "inotify", Severity: bootstrap.OK, Detail: "not this machine's to limit"}
	data, err := os.ReadFile(path)
	if err != nil {
		return f
	}
	have, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return f
	}
	f.Detail = fmt.Sprintf("%d instances for each user", have)
	if have < needInotify {
		f.Severity, f.Mend = bootstrap.Warning, "sudo sysctl fs.inotify.max_user_instances=512"
		f.Detail += fmt.Sprintf(", a lab may need %d", needInotify)
	}
	return f
}

// memory looks at what the engine may use, which on a laptop is a virtual machine's.
func memory(ctx context.Context, e *Engine) bootstrap.Finding {
	f := bootstrap.Finding{Check: "memory", Severity: bootstrap.OK, Detail: "not told by " + e.Name}
	if e.Name != "docker" {
		return f
	}
	out, err := e.output(ctx, askTimeout, "info", "--format", "{{.MemTotal}}")
	if err != nil {
		f.Severity, f.Detail = bootstrap.Warning, err.Error()
		return f
	}
	total, err := strconv.ParseInt(out, 10, 64)
	if err != nil {
		return f
	}
	f.Detail = fmt.Sprintf("%.1f GiB for containers", float64(total)/(1<<30))
	if total < needMemory {
		f.Severity = bootstrap.Warning
		f.Detail += fmt.Sprintf(", a lab of three nodes needs %d", needMemory>>30)
		f.Mend = "give the engine more, or use fewer nodes: ropes up --workers 1"
	}
	return f
}

func (p *Provider) findNodeImage(ctx context.Context, e *Engine, spec bootstrap.Spec, answers error) bootstrap.Finding {
	f := bootstrap.Finding{Check: "node image", Severity: bootstrap.OK}
	if spec.Bundle != "" && spec.Image == "" {
		f.Detail = "from " + spec.Bundle
		return f
	}
	ref := spec.Image
	if ref == "" {
		ref = NodeImage
	}
	id, err := e.ImageID(ctx, ref)
	switch {
	case err != nil:
		f.Severity, f.Detail = bootstrap.Fatal, err.Error()
	case id != "":
		f.Detail = "at hand: " + ref
	case answers == nil || spec.Image != "":
		f.Detail = "will be pulled: " + ref
	default:
		f.Severity, f.Detail = bootstrap.Fatal, "not at hand, and the registry does not answer: "+ref
		f.Mend = "where the engine has a proxy or mirror of its own: " + e.binary + " pull " + e.ref(ref) + "; with a bundle no network is needed: ropes up --bundle FILE (ropes bundle create FILE makes one where there is a network)"
	}
	return f
}

func (p *Provider) findImages(spec bootstrap.Spec, answers error) bootstrap.Finding {
	f := bootstrap.Finding{Check: "images", Severity: bootstrap.OK}
	if spec.Bundle != "" {
		f.Detail = "from " + spec.Bundle
		return f
	}
	if err := p.opts.HasPayload(); err != nil {
		f.Severity, f.Detail = bootstrap.Fatal, "the sample apps come from the payload: "+err.Error()
		return f
	}
	switch {
	case spec.Images == BuiltIn:
		f.Detail = "built in"
	case spec.Images == FromRegistry && answers != nil:
		f.Severity, f.Detail, f.Mend = bootstrap.Fatal, "the registry does not answer: "+answers.Error(), "use the built-in images: --images builtin"
	case answers == nil:
		f.Detail = "Istio's own from " + IstioHub + " at " + IstioTag + "; --images builtin takes those that ropes carries"
	default:
		f.Detail = "built in, for the registry does not answer"
	}
	return f
}
