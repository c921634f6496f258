// Package metamorphic runs one random history of operations through every
// form of the cache and compares each answer with that of a model. Its code is
// in its tests.
package metamorphic
