package maf

// RefusalsRemembered returns how many refusals are in memory.
func (f *Function) RefusalsRemembered() int { return f.fetches.Refused() }
