package maf

// RefusalsRemembered returns how many refusals are in memory.
func (f *Function) RefusalsRemembered() int {
	f.refused.mu.Lock()
	defer f.refused.mu.Unlock()
	return len(f.refused.until)
}
