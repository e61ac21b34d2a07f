package survey

import "slices"

func sorted(list []string) []string {
	slices.Sort(list)
	return list
}

// unique sorts and drops what is there twice.
func unique(list []string) []string { return slices.Compact(sorted(slices.Clone(list))) }
