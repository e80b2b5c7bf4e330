package xds

// resourceError is the refusal of one resource of an update.
type resourceError struct {
	name string
	err  error
}

// Refuse says that err concerns only the resource of that name: the last good version of it stays in force and the
// rest of the update took effect. The text is err's.
func Refuse(name string, err error) error { return &resourceError{name, err} }

// Error implements error.
func (e *resourceError) Error() string { return e.err.Error() }

// Unwrap gives the cause.
func (e *resourceError) Unwrap() error { return e.err }

// refused lists the resources that err refuses; whole means that it is about more than single resources.
func refused(err error) (names map[string]bool, whole bool) {
	switch e := err.(type) { //nolint:errorlint // a join is looked through below; anything else that wraps speaks of the whole
	case *resourceError:
		return map[string]bool{e.name: true}, false
	case interface{ Unwrap() []error }:
		names = map[string]bool{}
		for _, x := range e.Unwrap() {
			more, all := refused(x)
			if all {
				return nil, true
			}
			for n := range more {
				names[n] = true
			}
		}
		return names, len(names) == 0
	}
	return nil, true
}
