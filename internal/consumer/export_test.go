package consumer

// SingleWaits reports whether the lane of the single orders waits for a slot.
func (c *Consumer) SingleWaits() bool {
	c.slots.mu.Lock()
	defer c.slots.mu.Unlock()
	return c.slots.wanted[single]
}
