package file

// ErrCrash ends a call as the death of its process would.
var ErrCrash = errCrash

// SetPoint has f called at each place of a call where its process could die.
func (d *Driver) SetPoint(f func(where string) error) { d.point = f }
