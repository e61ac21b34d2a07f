package detail

import (
	"slices"
	"strings"
)

// maxParams bounds the updates that are kept of a unit; beyond it Unsure is set.
const maxParams = 1024

// Update notes parameters that a unit was given, a list NAME=VALUE,... What they override goes, so that
// the record of a unit that is updated all day stays short, and doing Params in their order makes the
// same unit. A new medium takes the place of the old, as if the unit had been made with it.
func (u *Unit) Update(list string) {
	list = strings.Trim(list, ",")
	if strings.Contains(list, "element_type=") || strings.Contains(list, "address=") {
		u.append(list) // slots of a changer: the list means something only as a whole
		return
	}
	for param := range strings.SplitSeq(list, ",") {
		name, value, ok := strings.Cut(param, "=")
		switch {
		case !ok || name == "dump":
		case name == "path":
			if u.Path == "" {
				u.append(param) // a unit made without a medium is removable; one made with it is not
			} else {
				u.Path = value
			}
			u.Params = slices.DeleteFunc(u.Params, func(old string) bool { return strings.HasPrefix(old, "online=") })
		default:
			u.append(param)
		}
	}
}

func (u *Unit) append(param string) {
	u.Params = slices.DeleteFunc(u.Params, func(old string) bool { return overrides(param, old) })
	if len(u.Params) == maxParams {
		u.Params, u.Unsure = slices.Delete(u.Params, 0, 1), true
	}
	u.Params = append(u.Params, param)
}

// overrides says that nothing of the old parameter is left once the new one is set: it is the same, or
// another value of the same name.
func overrides(param, old string) bool {
	return param == old || key(param) == key(old)
}

// key is what a parameter sets: its name, of a mode page with the numbers of page and subpage, of a
// changer's slots all of it.
func key(param string) string {
	if strings.Contains(param, ",") {
		return param
	}
	name, value, _ := strings.Cut(param, "=")
	if name != "mode_page" {
		return name
	}
	parts := strings.SplitN(value, ":", 3)
	return name + "=" + strings.Join(parts[:min(len(parts), 2)], ":")
}
