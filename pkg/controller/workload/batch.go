package workload

import "sync"

// SlowStart calls do up to count times, in batches of 1, 2, 4, 8 … concurrent
// calls. When a call of a batch fails, no further batch is started, so that
// something that fails for all (a quota, an admission rule) is tried once and not
// count times. It returns the number of successes and the first error.
func SlowStart(count int, do func(index int) error) (int, error) {
	succeeded, started := 0, 0
	for size := min(1, count); size > 0; size = min(2*size, count-started) {
		errs := make([]error, size)
		var batch sync.WaitGroup
		for i := range size {
			index := started + i
			batch.Go(func() { errs[i] = do(index) })
		}
		batch.Wait()
		started += size
		var first error
		for _, err := range errs {
			if err == nil {
				succeeded++
			} else if first == nil {
				first = err
			}
		}
		if first != nil {
			return succeeded, first
		}
	}
	return succeeded, nil
}

// AtOnce calls do count times concurrently and returns the first error.
func AtOnce(count int, do func(index int) error) error {
	errs := make([]error, count)
	var calls sync.WaitGroup
	for i := range count {
		calls.Go(func() { errs[i] = do(i) })
	}
	calls.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
