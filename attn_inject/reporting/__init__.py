"""What attention costs, for people and for programs.

* `gathering`, `subject`, `speed`, `diff`: two models become a `ReportData`.
* `comparison`: many of them become a `ComparisonData`.
* `data`: what a report says; `settings`: what it should count and measure; `schema`: the JSON.
* `report` and `comparing`: the same data with the methods that show it; `views` are how.
"""
