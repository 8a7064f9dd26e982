"""`rotator run`: the long-running rotator.

`service` keeps one configuration at work and swaps it; `timetable` asks APScheduler to call us at the moments that
`schedule` computes; `sweeper` does the sweeps of one provider, one after the other; `agenda` decides what is to be done
between them. No state of theirs is needed to go on: whatever dies here, the journal has everything.
"""
