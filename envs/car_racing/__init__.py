"""CarRacing with official and with fast rendering; start reading at `car_racing.env`."""
