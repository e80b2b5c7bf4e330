package cel

import (
	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
)

// objectFunctions are the functions that ropes adds for reading live objects.
func objectFunctions() []cel.EnvOption {
	return []cel.EnvOption{
		cel.Function("condition", cel.Overload("condition_dyn_string", []*cel.Type{cel.DynType, cel.StringType}, cel.StringType,
			cel.BinaryBinding(func(obj, kind ref.Val) ref.Val {
				k, ok := kind.Value().(string)
				if !ok {
					return types.MaybeNoSuchOverloadErr(kind)
				}
				return types.String(condition(obj, k))
			}))),
		cel.Function("ready", cel.Overload("ready_dyn", []*cel.Type{cel.DynType}, cel.BoolType,
			cel.UnaryBinding(func(obj ref.Val) ref.Val { return types.Bool(ready(obj)) }))),
	}
}

// field walks a path of keys; nil where one of them is not there.
func field(v ref.Val, path ...string) ref.Val {
	for _, key := range path {
		m, ok := v.(traits.Mapper)
		if !ok {
			return nil
		}
		if v, ok = m.Find(types.String(key)); !ok {
			return nil
		}
	}
	return v
}

func str(v ref.Val) string {
	if v == nil {
		return ""
	}
	s, _ := v.Value().(string)
	return s
}

// number reads an integer, def where it is absent.
func number(v ref.Val, def int64) int64 {
	if v == nil {
		return def
	}
	switch n := v.Value().(type) {
	case int64:
		return n
	case float64:
		return int64(n)
	}
	return def
}

func condition(obj ref.Val, kind string) string {
	list, ok := field(obj, "status", "conditions").(traits.Lister)
	if !ok {
		return ""
	}
	for it := list.Iterator(); it.HasNext() == types.True; {
		if c := it.Next(); str(field(c, "type")) == kind {
			return str(field(c, "status"))
		}
	}
	return ""
}

// ready tells whether an object does what its spec asks for, by the fields that its kind
// reports that in.
func ready(obj ref.Val) bool {
	if field(obj, "metadata", "deletionTimestamp") != nil {
		return false
	}
	status := func(name string) int64 { return number(field(obj, "status", name), 0) }
	current := status("observedGeneration") >= number(field(obj, "metadata", "generation"), 0)
	replicas := number(field(obj, "spec", "replicas"), 1)
	switch str(field(obj, "kind")) {
	case "Deployment":
		return current && status("updatedReplicas") == replicas && status("replicas") == replicas && status("availableReplicas") == replicas
	case "StatefulSet":
		return current && status("updatedReplicas") == replicas && status("readyReplicas") == replicas
	case "DaemonSet":
		want := status("desiredNumberScheduled")
		return current && status("updatedNumberScheduled") == want && status("numberAvailable") == want
	}
	return condition(obj, "Ready") == "True"
}
