"""Where a runtime wants Q/DQ: functions from a prepared graph to a `QdqPlan`, without a single scale."""
