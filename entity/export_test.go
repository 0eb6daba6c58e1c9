package entity

// Kept returns how many keys are in memory.
func (e *Entity) Kept() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.keys)
}
