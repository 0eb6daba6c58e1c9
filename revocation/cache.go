package revocation

import lru "container/list"

// A cache keeps the most recently used of its entries. Its user holds a lock.
type cache[K comparable, V any] struct {
	most    int
	order   *lru.List // of *cached, the most recently used first
	entries map[K]*lru.Element
}

type cached[K comparable, V any] struct {
	key   K
	value V
}

func newCache[K comparable, V any](most int) *cache[K, V] {
	return &cache[K, V]{most, lru.New(), make(map[K]*lru.Element)}
}

func (c *cache[K, V]) get(key K) (value V, ok bool) {
	element, ok := c.entries[key]
	if !ok {
		return value, false
	}
	c.order.MoveToFront(element)
	return element.Value.(*cached[K, V]).value, true
}

func (c *cache[K, V]) put(key K, value V) {
	if element, ok := c.entries[key]; ok {
		element.Value.(*cached[K, V]).value = value
		c.order.MoveToFront(element)
		return
	}
	c.entries[key] = c.order.PushFront(&cached[K, V]{key, value})
	if c.order.Len() > c.most {
		oldest := c.order.Back()
		delete(c.entries, oldest.Value.(*cached[K, V]).key)
		c.order.Remove(oldest)
	}
}

// all returns every value and does not count as a use.
func (c *cache[K, V]) all() []V {
	var values []V
	for element := c.order.Front(); element != nil; element = element.Next() {
		values = append(values, element.Value.(*cached[K, V]).value)
	}
	return values
}
