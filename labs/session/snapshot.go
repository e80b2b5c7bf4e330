package session

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Snapshot is the recorded baseline of a lab or of a step: all that is needed to bring it
// about again, and the digests that prove it.
type Snapshot struct {
	Taken   time.Time `json:"taken"`
	Digest  string    `json:"digest"` // over all objects
	Objects []Entry   `json:"objects"`
}

// Entry is one object of a snapshot.
type Entry struct {
	Digest string                     `json:"digest"`
	Object *unstructured.Unstructured `json:"object"`
	// Policy is the reclaim policy of the volume that was provisioned for a claim. It is no part
	// of the digest, since a claim made anew may wait for its first pod and have no volume yet.
	Policy string `json:"policy,omitempty"`
}

// policyOf is the reclaim policy of a volume; "" for none.
func policyOf(volume *unstructured.Unstructured) string {
	if volume == nil {
		return ""
	}
	p, _, _ := unstructured.NestedString(volume.Object, "spec", "persistentVolumeReclaimPolicy")
	return p
}

// snapshot records what the lab has in the cluster now.
func (iv inventorist) snapshot(ctx context.Context) (Snapshot, error) {
	inv, err := iv.take(ctx)
	if err != nil {
		return Snapshot{}, fmt.Errorf("record baseline of %s: %w", iv.lab.ID, err)
	}
	return inv.snapshot()
}

// snapshot leaves out what is on its way out.
func (inv *inventory) snapshot() (Snapshot, error) {
	s := Snapshot{Taken: time.Now().UTC()}
	live := slices.Concat(slices.Collect(maps.Values(inv.namespaces)), slices.Collect(maps.Values(inv.objects)))
	slices.SortFunc(live, func(a, b *unstructured.Unstructured) int { return compareKeys(keyOf(a), keyOf(b)) })
	for _, u := range live {
		if u.GetDeletionTimestamp() != nil {
			continue
		}
		rec := record(u)
		d, err := digest(rec)
		if err != nil {
			return Snapshot{}, err
		}
		s.Objects = append(s.Objects, Entry{Digest: d, Object: rec, Policy: policyOf(inv.volumes[keyOf(u)])})
	}
	s.Digest = s.total()
	return s, nil
}

// total is one digest over all objects, their names included.
func (s Snapshot) total() string {
	h := sha256.New()
	for _, e := range s.Objects {
		fmt.Fprintf(h, "%v %s\n", keyOf(e.Object), e.Digest)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func (s Snapshot) entries() map[key]Entry {
	m := make(map[key]Entry, len(s.Objects))
	for _, e := range s.Objects {
		m[keyOf(e.Object)] = e
	}
	return m
}

// difference is what parts the cluster from a snapshot.
type difference struct {
	extra   []*unstructured.Unstructured // live
	changed []*unstructured.Unstructured // recorded
	missing []*unstructured.Unstructured // recorded
	volumes []*unstructured.Unstructured // provisioned, live but with the recorded reclaim policy
}

func (d difference) empty() bool {
	return len(d.extra)+len(d.changed)+len(d.missing)+len(d.volumes) == 0
}

// String lists the objects that differ.
func (d difference) String() string {
	var parts []string
	for _, g := range []struct {
		what string
		us   []*unstructured.Unstructured
	}{{"not in the baseline", d.extra}, {"changed", d.changed}, {"missing", d.missing}, {"has another reclaim policy", d.volumes}} {
		for _, u := range g.us {
			parts = append(parts, fmt.Sprintf("%s %s", keyOf(u), g.what))
		}
	}
	return fmt.Sprint(parts)
}

// compare finds what parts an inventory from a snapshot. An object that is being deleted
// counts as extra, and where the snapshot has it as missing too. So does a claim whose volume
// is being deleted: it has lost what it was bound to.
func (s Snapshot) compare(inv *inventory) (difference, error) {
	var d difference
	want := s.entries()
	live := map[key]*unstructured.Unstructured{}
	maps.Copy(live, inv.objects)
	for _, u := range inv.namespaces {
		live[keyOf(u)] = u
	}
	for _, k := range slices.SortedFunc(maps.Keys(live), compareKeys) {
		u := live[k]
		e, ok := want[k]
		vol := inv.volumes[k]
		if !ok || isGoing(u) || isGoing(vol) {
			d.extra = append(d.extra, u)
			continue
		}
		if vol != nil && e.Policy != "" && policyOf(vol) != e.Policy {
			back := vol.DeepCopy()
			if err := unstructured.SetNestedField(back.Object, e.Policy, "spec", "persistentVolumeReclaimPolicy"); err != nil {
				return d, fmt.Errorf("policy of %s: %w", keyOf(vol), err)
			}
			d.volumes = append(d.volumes, back)
		}
		dig, err := digest(record(u))
		if err != nil {
			return d, err
		}
		if dig != e.Digest {
			d.changed = append(d.changed, e.Object)
		}
	}
	for _, e := range s.Objects {
		k := keyOf(e.Object)
		if u := live[k]; u == nil || isGoing(u) || isGoing(inv.volumes[k]) {
			d.missing = append(d.missing, e.Object)
		}
	}
	return d, nil
}

func isGoing(u *unstructured.Unstructured) bool {
	return u != nil && u.GetDeletionTimestamp() != nil
}
