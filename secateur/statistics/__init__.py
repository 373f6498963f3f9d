"""What methods know of a layer's inputs: accumulated per site, in fp32, once for everybody who needs it."""

from secateur.statistics.bundles import BUNDLES, bundle_covers, join
from secateur.statistics.norms import NormSums
from secateur.statistics.site import SiteAccumulator, SiteStatistics
from secateur.statistics.store import StatisticsStore

__all__ = ["BUNDLES", "NormSums", "SiteAccumulator", "SiteStatistics", "StatisticsStore", "bundle_covers", "join"]
